// Shows the engine's own OpenAPI document; nothing on this page asks another host.
Scalar.createApiReference("#api", {
  url: new URL("openapi.json", document.baseURI).href,
  agent: { disabled: true },
  hideClientButton: true,
  persistAuth: false,
  showDeveloperTools: "never",
  telemetry: false,
  withDefaultFonts: false,
});
