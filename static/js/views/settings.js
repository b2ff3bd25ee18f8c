// The engine, its namespaces, and what this browser remembers about the operator.

import { html, useState } from "../../vendor/htm/preact-standalone.js";
import { change, path, session, useQuery } from "../data.js";
import { Confirm, Form, TextField } from "../forms.js";
import { api, config, go, href } from "../route.js";
import { Copy, Failure, Icon, Loading, openDialog, recall, remember, Table, Time, toast } from "../ui.js";

const AUTH = { open: "Open: no login", api_key: "API keys", jwt: "JWT", combined: "API keys and JWT" };
const COUNTS = ["completed", "failed", "cancelled", "timed_out"];
const NUMBERS = ["Runs", "Open", "Completed", "Failed", "Cancelled", "Timed out", "Schedules", "Workers"];
const HEAD = ["Namespace", "Created", ...NUMBERS.map((name) => html`<th scope="col" class="number">${name}</th>`), html`<th scope="col"><span class="visually-hidden">Actions</span></th>`];

function Engine() {
  const { data, error, retry } = useQuery("/version");
  return html`<section class="card" aria-labelledby="engine-title"><h2 id="engine-title">Engine</h2>
    <${Failure} error=${error} retry=${retry} />
    <dl class="facts">
      <div class="fact"><dt>Version</dt><dd>${data ? `v${data.version}` : "…"}</dd></div>
      <div class="fact"><dt>Build profile</dt><dd>${data ? data.build_profile : "…"}</dd></div>
      <div class="fact"><dt>Sign-in</dt><dd data-testid="auth-mode">${AUTH[config.authMode]}</dd></div>
      <div class="fact"><dt>API</dt><dd class="links">${config.docsUrl && html`<a href=${config.docsUrl} target="_blank" rel="noopener" data-testid="settings-docs">API documentation</a>`}
        <a href="${api}/openapi.json" target="_blank" rel="noopener">openapi.json</a></dd></div>
    </dl>
  </section>`;
}

function NamespaceRow({ name, createdAt, remove }) {
  const { data: stats } = useQuery(path(["namespaces", name]), { topics: ["namespaces", "list", "workers", "schedules"], every: 15000 });
  const number = (key) => (stats ? stats[key] : "…");
  return html`<tr data-row data-testid="namespace-row" data-name=${name}>
    <td><a href=${href("workflows", { ns: name })}>${name}</a></td><td class="nowrap"><${Time} at=${createdAt} /></td>
    <td class="number">${number("total_workflows")}</td><td class="number">${stats ? stats.pending + stats.running : "…"}</td>
    ${COUNTS.map((key) => html`<td key=${key} class="number">${number(key)}</td>`)}
    <td class="number">${number("schedules")}</td><td class="number">${number("workers")}</td>
    <td class="cell-actions"><button type="button" class="button small danger-quiet" data-testid="namespace-delete" aria-label="Delete ${name}" disabled=${name === "main"}
      title=${name === "main" ? "main cannot be deleted" : undefined} onClick=${() => remove(name)}>Delete</button></td>
  </tr>`;
}

function Namespaces({ ns }) {
  const { data, error, retry, loading } = useQuery("/namespaces", { topics: ["namespaces"] });
  const create = async ({ name = "" }) => {
    await change("POST", "/namespaces", { name: name.trim() }, ["namespaces"]);
    toast(`Namespace '${name.trim()}' created`);
  };
  const remove = (name) =>
    openDialog(Confirm, {
      title: `Delete namespace ${name}?`,
      text: "It must have no open runs and no schedules. Its closed runs are deleted with it.",
      send: async () => {
        await change("DELETE", path(["namespaces", name]), undefined, ["namespaces"]);
        toast(`Namespace '${name}' deleted`);
        if (name === ns) go(href("settings", { ns: config.defaultNamespace }), { replace: true });
      },
    });
  return html`<section class="card" aria-labelledby="namespaces-title"><h2 id="namespaces-title">Namespaces</h2>
    <${Failure} error=${error} retry=${retry} />
    ${loading && html`<${Loading} />`}
    ${data && html`<${Table} label="Namespaces" scroll="namespaces" head=${HEAD}>
      ${data.map(({ name, created_at: createdAt }) => html`<${NamespaceRow} key=${name} name=${name} createdAt=${createdAt} remove=${remove} />`)}<//>`}
    <${Form} name="namespace" class="form inline" send=${create} submit="Create namespace" data-testid="namespace-form">
      <${TextField} name="name" label="New namespace" required maxlength="63" hint="1 to 63 of a-z A-Z 0-9 . _ -" /><//>
  </section>`;
}

function You() {
  const [name, setName] = useState(recall("user") || "");
  const save = (event) => {
    setName(event.target.value);
    remember("user", event.target.value.trim() || null);
  };
  return html`<section class="card" aria-labelledby="you-title"><h2 id="you-title">You</h2>
    ${session.principal && html`<p>Signed in as <strong>${session.principal}</strong>.</p>`}
    <div class="field"><label for="user-name">Your name for step actions</label>
      <input id="user-name" data-testid="field-user" value=${name} onInput=${save} aria-describedby="user-hint" autocomplete="off" />
      <p class="hint" id="user-hint">Sent with the buttons of the Steps tab while nobody is signed in. Kept in this browser.</p></div>
  </section>`;
}

export default function Settings({ ns }) {
  return html`<section class="list scrolls" data-scroll="settings" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Settings</h1></header>
    <div class="cards"><${Engine} /><${You} /><${Namespaces} ns=${ns} /></div>
  </section>`;
}
