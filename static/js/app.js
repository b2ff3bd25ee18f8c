// Boot and frame: sidebar, status bar, the view that the address names. Views register in VIEWS.

import { html, render, useEffect, useReducer, useState } from "../vendor/htm/preact-standalone.js";
import { adopt, change, path, request, session, useQuery } from "./data.js";
import { connection, followNamespace } from "./live.js";
import { config, currentRoute, go, href, safeNext, watchRoute } from "./route.js";
import { Dialogs, Failure, Guard, Icon, Loading, recall, remember, toast, Toasts, useModule, useWatched } from "./ui.js";

// name -> title in the sidebar and on the tab, and the module whose default export renders it with {ns, route}
const VIEWS = {
  workflows: { title: "Workflows", load: () => import("./views/workflows.js") },
  schedules: { title: "Schedules", load: () => import("./views/schedules.js") },
  workers: { title: "Workers", load: () => import("./views/workers.js") },
  queues: { title: "Queues", load: () => import("./views/queues.js") },
  settings: { title: "Settings", load: () => import("./views/settings.js") },
};
const LOGIN = { title: "Sign in", load: () => import("./views/login.js") };

function useRoute() {
  const [, again] = useReducer((count) => count + 1, 0);
  useEffect(() => watchRoute(again), []);
  return currentRoute();
}

/** The namespace of a route. */
function namespaceOf(route) {
  return route.ns || recall("namespace", "sessionStorage") || config.defaultNamespace;
}

// ---------------------------------------------------------------------------------------------------- sidebar

function Brand() {
  return html`<div class="brand">
    <span class="brand-mark" aria-hidden="true">${config.mark}</span>
    ${config.logoUrl && html`<img class="brand-logo" src=${config.logoUrl} alt="" />`}
    <span class="brand-text"><span class="brand-name">${config.name}</span>
    ${config.subtitle && html`<span class="brand-subtitle">${config.subtitle}</span>`}</span>
  </div>`;
}

const NAMESPACES_POLL_MS = 5000; // the stream of one namespace does not tell of new ones

/** The selector; a namespace that does not exist is an option too, so that it shows what the address says. */
export function NamespaceSelect({ ns, view, id = "namespace" }) {
  const { data = [] } = useQuery("/namespaces", { topics: ["namespaces"], every: NAMESPACES_POLL_MS });
  const names = data.map(({ name }) => name);
  if (!names.includes(ns)) names.unshift(ns);
  const choose = (event) => go(href(view, { ns: event.target.value }));
  return html`<label class="namespace" for=${id}><span class="label">Namespace</span>
    <select id=${id} data-testid="namespace-select" value=${ns} onChange=${choose}>
      ${names.map((name) => html`<option key=${name} value=${name} selected=${name === ns}>${name}</option>`)}
    </select></label>`;
}

function NavLink({ name, title, ns, current, onClick }) {
  return html`<li><a href=${href(name, { ns })} data-testid="nav-${name}" aria-current=${current ? "page" : undefined} title=${title} onClick=${onClick}>
    <${Icon} name=${name} /><span class="nav-text">${title}</span></a></li>`;
}

function toggleTheme() {
  remember("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  dispatchEvent(new Event("assay:theme"));
}

async function signOut() {
  const next = location.pathname + location.search;
  try {
    await change("DELETE", "/session");
  } catch (error) {
    toast(error.message, { tone: "red" });
    return;
  }
  location.replace(href("login", { next })); // a new page has forgotten everything
}

function SidebarFooter() {
  return html`<ul class="sidebar-footer">
    ${config.parentUrl && html`<li><a href=${config.parentUrl} title=${config.parentName}><${Icon} name="back" /><span class="nav-text">${config.parentName}</span></a></li>`}
    ${config.docsUrl && html`<li><a href=${config.docsUrl} target="_blank" rel="noopener" title="API Docs" data-testid="nav-docs"><${Icon} name="docs" /><span class="nav-text">API Docs</span></a></li>`}
    <li><button type="button" data-testid="theme-toggle" title="Switch theme" onClick=${toggleTheme}><${Icon} name="theme" /><span class="nav-text">Switch theme</span></button></li>
    ${session.csrf && html`<li class="principal" title=${session.principal}><span class="nav-text">${session.principal}</span></li>
    <li><button type="button" data-testid="sign-out" title="Sign out" onClick=${signOut}><${Icon} name="out" /><span class="nav-text">Sign out</span></button></li>`}
  </ul>`;
}

function Sidebar({ ns, view, drawer, closeDrawer }) {
  const [folded, setFolded] = useState(recall("sidebar") === "folded");
  const fold = () => {
    remember("sidebar", folded ? null : "folded");
    setFolded(!folded);
  };
  return html`<aside aria-label="Sidebar" class="sidebar ${folded ? "folded" : ""} ${drawer ? "is-drawn" : ""}" id="sidebar">
    <${Brand} />
    <${NamespaceSelect} ns=${ns} view=${VIEWS[view] ? view : "workflows"} />
    <nav aria-label="Views"><ul>
      ${Object.entries(VIEWS).map(([name, { title }]) => html`<${NavLink} key=${name} name=${name} title=${title} ns=${ns} current=${view === name} onClick=${closeDrawer} />`)}
    </ul></nav>
    <${SidebarFooter} />
    <button type="button" class="fold" aria-expanded=${String(!folded)} aria-controls="sidebar" title=${folded ? "Show the sidebar" : "Fold the sidebar"} onClick=${fold}>
      <${Icon} name="fold" /><span class="nav-text">Fold</span>
    </button>
  </aside>`;
}

// ------------------------------------------------------------------------------------------------- status bar

const CONNECTIONS = { Live: ["●", "green"], Reconnecting: ["◐", "yellow"], Offline: ["✕", "red"] };

function StatusBar({ ns }) {
  const { state } = useWatched(connection);
  const [glyph, tone] = CONNECTIONS[state];
  const workers = useQuery(path(["workers"], { namespace: ns }), { topics: ["workers"] }).data;
  const version = useQuery("/version").data;
  const active = workers?.filter((worker) => worker.status === "active").length;
  return html`<footer class="status-bar" data-testid="status-bar">
    <span data-testid="connection" role="status" class="tone-${tone}"><span class="glyph" aria-hidden="true">${glyph}</span> ${state}</span>
    <span>${ns}</span>
    ${workers && html`<span data-testid="active-workers">${active} active ${active === 1 ? "worker" : "workers"}</span>`}
    <span class="spring"></span>
    ${version && html`<span data-testid="engine-version">v${version.version}${version.build_profile === "debug" ? " (debug)" : ""}</span>`}
  </footer>`;
}

// ------------------------------------------------------------------------------------------------------ views

const Missing = ({ ns }) => html`<div class="pad"><h1 tabindex="-1">Page not found</h1>
  <p>There is no page at this address. <a href=${href("workflows", { ns })}>Go to the workflows</a></p></div>`;

const NoNamespace = ({ ns, view }) => html`<div class="pad"><h1 tabindex="-1">No namespace “${ns}”</h1>
  <p>It may have been deleted. Choose another one:</p><${NamespaceSelect} ns=${ns} view=${view} id="namespace-choice" /></div>`;

let shownView = null;

/** The view of the address; after a change the focus is on its heading, unless a form took it up again. */
function View({ name, view, ...props }) {
  const { module, error, retry } = useModule(name, view.load);
  useEffect(() => {
    if (!module) return;
    if (shownView && shownView !== name && !document.querySelector("main :focus")) document.querySelector("main h1")?.focus({ preventScroll: true });
    shownView = name;
  }, [module]);
  if (error) return html`<div class="pad"><${Failure} error=${error} retry=${retry} /></div>`;
  if (!module) return html`<${Loading} />`;
  return html`<${module.default} ...${props} />`;
}

function Main({ route, ns }) {
  const namespaces = useQuery("/namespaces", { topics: ["namespaces"] }).data;
  const view = VIEWS[route.view];
  if (!view) return html`<${Missing} ns=${ns} />`;
  const known = !namespaces || namespaces.some(({ name }) => name === ns);
  if (namespaces && known) remember("namespace", ns, "sessionStorage");
  if (!known && route.view !== "settings") return html`<${NoNamespace} ns=${ns} view=${route.view} />`;
  return html`<${Guard} key=${route.view} name=${view.title}><${View} key=${`${route.view} ${ns}`} name=${route.view} view=${view} ns=${ns} route=${route} /><//>`;
}

function Frame({ route }) {
  const ns = namespaceOf(route);
  const [drawer, setDrawer] = useState(false);
  const complete = VIEWS[route.view] && route.view !== "settings" && !route.full ? href(route.view, { ...route.params, ns, id: null }) : null;
  useEffect(() => {
    if (complete) go(complete, { replace: true });
  }, [complete]);
  useEffect(() => {
    followNamespace(ns);
    return () => followNamespace(null);
  }, [ns]);
  useEffect(() => {
    const title = VIEWS[route.view]?.title || "Page not found";
    document.title = [route.id, title, config.pageTitle].filter(Boolean).join(" · ");
  }, [route.view, route.id]);
  useEffect(() => {
    if (!drawer) return undefined;
    const escape = (event) => event.key === "Escape" && setDrawer(false);
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  }, [drawer]);
  return html`<div class="shell">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the content</a>
    <header class="topbar"><button type="button" class="button quiet square" aria-label="Menu" aria-expanded=${String(drawer)} aria-controls="sidebar" onClick=${() => setDrawer(!drawer)}><${Icon} name="menu" /></button><${Brand} /></header>
    ${drawer && html`<div class="curtain" onClick=${() => setDrawer(false)}></div>`}
    <${Sidebar} ns=${ns} view=${route.view} drawer=${drawer} closeDrawer=${() => setDrawer(false)} />
    <main class="page" id="main" tabindex="-1" inert=${drawer}><${Main} route=${route} ns=${ns} /></main>
    <${StatusBar} ns=${ns} />
  </div>`;
}

function App() {
  const route = useRoute();
  const login = route.view === "login";
  const enters = login && (config.authMode === "open" || session.csrf); // who is in has no need of the login page
  useEffect(() => {
    if (enters) go(safeNext(route.params.next), { replace: true });
  }, [enters]);
  if (enters) return html`<${Toasts} />`;
  if (login) {
    return html`<main class="login-page"><${View} name="login" view=${LOGIN} route=${route} brand=${html`<${Brand} />`} /></main><${Toasts} />`;
  }
  return html`<${Frame} route=${route} /><${Dialogs} /><${Toasts} />`;
}

async function start() {
  if (config.authMode !== "open") {
    try {
      adopt((await request("/session")).data);
    } catch (error) {
      if (error.status !== 401) console.warn(error.message); // the frame shows what does not work
    }
  }
  const root = document.getElementById("app");
  root.replaceChildren();
  render(html`<${App} />`, root);
}

// Keyboard shortcuts come with the first key.
let pressed = null;
addEventListener("keydown", (event) => {
  if (pressed) pressed(event);
  else import("./keys.js").then((keys) => (pressed = keys.pressed)(event));
});

start();
