// The list of runs with its filters, and the detail of the selected run beside it.

import { html, useEffect, useRef, useState } from "../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../data.js";
import { currentRoute, go, goWith, href, runHref } from "../route.js";
import { ACTIONS, Duration, Empty, Failure, Icon, Loading, Paging, RunStatus, STATUSES, Table, Time, useDraft, useModule } from "../ui.js";

const PAGE_SIZE = 50;
const TYPING_MS = 300;
const FILTERS = ["q", "status", "type", "task_queue", "search_attrs"];

const isObject = (text) => {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value);
  } catch {
    return false;
  }
};

/** The filters of the address that the server can use; an unknown status or broken JSON filters nothing. */
function filtersOf({ params }) {
  const filters = Object.fromEntries(FILTERS.map((name) => [name, params[name] || ""]));
  if (!STATUSES[filters.status.toUpperCase()]) filters.status = "";
  if (filters.search_attrs && !isObject(filters.search_attrs)) filters.search_attrs = "";
  return filters;
}

const pageOf = ({ params }) => Math.min(1e6, Math.max(1, Math.floor(Number(params.page)) || 1));

// ---------------------------------------------------------------------------------------------------- filters

/** A filter that is typed: the address follows 300 ms after the last key; `wrong(text)` holds it back. */
function TypedFilter({ ns, name, label, value, wrong, type = "text", ...rest }) {
  const draft = useDraft(`filter ${name} ${ns}`);
  const [text, setText] = useState(draft.values?.[name] ?? value);
  const pending = useRef(0);
  const sent = useRef(value);
  const field = useRef(null);
  const typed = (next) => {
    setText(next);
    Object.assign(draft, { values: { [name]: next }, last: name });
    clearTimeout(pending.current);
    if (next.trim() && wrong?.(next)) return;
    pending.current = setTimeout(() => {
      sent.current = next.trim();
      draft.values = null; // it is in the address now
      goWith({ [name]: next.trim(), page: null }, { replace: true });
    }, TYPING_MS);
  };
  useEffect(() => {
    if (value === sent.current) return;
    sent.current = value; // Back, Forward or Clear filters
    draft.values = null;
    setText(value);
  }, [value]);
  useEffect(() => {
    if (draft.values) {
      typed(text);
      field.current.focus();
    }
    return () => clearTimeout(pending.current);
  }, []);
  const error = text.trim() && wrong?.(text);
  return html`<div class="filter filter-${name}">
    <label for="filter-${name}">${label}</label>
    <input ref=${field} id="filter-${name}" type=${type} data-testid="filter-${name}" value=${text} onInput=${(event) => typed(event.target.value)} autocomplete="off" autocapitalize="off" spellcheck=${false}
      aria-invalid=${error ? "true" : undefined} aria-describedby=${error ? `filter-${name}-error` : undefined} ...${rest} />
    ${error && html`<p class="error" id="filter-${name}-error" role="alert">${error}</p>`}
  </div>`;
}

function Filters({ ns, filters, clear }) {
  const workers = useQuery(path(["workers"], { namespace: ns }), { topics: ["workers"] }).data || [];
  const types = [...new Set(workers.flatMap((worker) => worker.workflows))].sort();
  const queues = [...new Set(["default", ...workers.map((worker) => worker.task_queue)])].sort();
  const any = FILTERS.some((name) => currentRoute().params[name]);
  const options = (names) => names.map((name) => html`<option key=${name} value=${name} />`);
  return html`<div class="toolbar" role="search" aria-label="Filter the runs">
    <${TypedFilter} ns=${ns} key="q" name="q" label="Search" value=${filters.q} type="search" placeholder="Id or type" />
    <div class="filter filter-status"><label for="filter-status">Status</label>
      <select id="filter-status" data-testid="filter-status" value=${filters.status.toUpperCase()} onChange=${(event) => goWith({ status: event.target.value, page: null })}>
        <option value="">All</option>
        ${Object.entries(STATUSES).map(([status, [, word]]) => html`<option key=${status} value=${status} selected=${status === filters.status.toUpperCase()}>${word}</option>`)}
      </select></div>
    <${TypedFilter} ns=${ns} key="type" name="type" label="Type" value=${filters.type} list="known-types" />
    <${TypedFilter} ns=${ns} key="task_queue" name="task_queue" label="Queue" value=${filters.task_queue} list="known-queues" />
    <${TypedFilter} ns=${ns} key="search_attrs" name="search_attrs" label="Search attributes" value=${filters.search_attrs} placeholder='{"env": "prod"}'
      wrong=${(text) => (isObject(text) ? null : 'Not a JSON object; try {"env": "prod"}')} />
    <datalist id="known-types">${options(types)}</datalist><datalist id="known-queues">${options(queues)}</datalist>
    ${any && html`<button type="button" class="button quiet clear" data-testid="filter-clear" onClick=${clear}>Clear filters</button>`}
  </div>`;
}


// ------------------------------------------------------------------------------------------------------- rows

function Row({ run, selected, address, act }) {
  const actions = Object.entries(ACTIONS).filter(([, { applies }]) => applies(run));
  const clicked = (event) => {
    if (event.target.closest("a, button, input, select") || String(getSelection())) return;
    go(address);
  };
  return html`<tr data-row data-testid="workflow-row" data-id=${run.id} class=${selected ? "is-selected" : ""} aria-current=${selected ? "true" : undefined} onClick=${clicked}>
    <td><${RunStatus} run=${run} /></td>
    <td class="cell-id"><a href=${address} class="mono">${run.id}</a></td>
    <td>${run.workflow_type}</td>
    <td>${run.task_queue}</td>
    <td class="nowrap"><${Time} at=${run.created_at} /></td>
    <td class="nowrap"><${Duration} from=${run.created_at} to=${run.completed_at} /></td>
    <td class="cell-actions">${actions.map(([name, { label, danger }]) => html`<button key=${name} type="button" class="button small ${danger ? "danger-quiet" : ""}"
      data-testid="row-action-${name}" aria-label="${label} ${run.id}" onClick=${() => act(name, run)}>${label}</button>`)}</td>
  </tr>`;
}

const HEAD = ["Status", "ID", "Type", "Queue", "Created", "Duration", html`<th scope="col"><span class="visually-hidden">Actions</span></th>`];

function Rows({ ns, list, filters, page, selected, act, startRun, clear }) {
  const { data: runs, total, error, stale, retry, loading } = list;
  const { params } = currentRoute();
  if (loading) return html`<${Loading} what="Loading runs" />`;
  const kept = Object.fromEntries([...FILTERS, "page"].map((name) => [name, params[name]]));
  return html`<${Failure} error=${error} retry=${retry} />
    ${runs && !runs.length && page === 1 && (Object.values(filters).some(Boolean)
      ? html`<${Empty} title="No run matches these filters"><button type="button" class="button" onClick=${clear}>Clear filters</button><//>`
      : html`<${Empty} title="No runs in ${ns} yet"><p>A run appears here as soon as somebody starts one.</p>
          <button type="button" class="button primary" onClick=${() => startRun()}><${Icon} name="plus" />Start workflow</button><//>`)}
    ${runs && (runs.length > 0 || page > 1) && html`<${Table} label="Runs" scroll="runs" head=${HEAD} className=${stale ? "is-stale" : ""}>
      ${runs.map((run) => html`<${Row} key=${run.run_id} run=${run} selected=${run.id === selected} act=${act}
        address=${href("workflows", { ...kept, ns, id: run.id })} />`)}
    <//>
    <${Paging} page=${page} size=${PAGE_SIZE} count=${runs.length} total=${total} go=${(to) => goWith({ page: to === 1 ? null : to })} />`}`;
}

// ------------------------------------------------------------------------------------------------------- view

function Panel({ ns, route }) {
  const { module, error, retry } = useModule("detail", () => import("./detail.js"));
  const close = () => go(runHref(ns, null));
  if (error) return html`<aside class="panel"><${Failure} error=${error} retry=${retry} /></aside>`;
  return module && html`<${module.default} key=${route.id} ns=${ns} id=${route.id} tab=${route.tab} close=${close} />`;
}

export default function Workflows({ ns, route }) {
  const filters = filtersOf(route);
  const page = pageOf(route);
  const list = useQuery(path(["workflows"], { namespace: ns, ...filters, limit: PAGE_SIZE, offset: (page - 1) * PAGE_SIZE || null, count: true }), { topics: ["list"], keep: true });
  const act = async (name, run) => {
    const { runAction } = await import("../actions.js");
    const next = await runAction(name, run);
    if (name === "continue" && next) go(runHref(ns, next));
  };
  const startRun = async (like) => (await import("../start.js")).startRun(ns, like);
  const [round, setRound] = useState(0);
  const clear = () => {
    goWith({ ...Object.fromEntries(FILTERS.map((name) => [name, null])), page: null });
    setRound(round + 1); // also forgets a text that never became a filter
    setTimeout(() => document.getElementById("filter-q")?.focus());
  };
  return html`<div class="split ${route.id ? "has-panel" : ""}">
    <section class="list" aria-labelledby="view-title">
      <header class="view-head"><h1 id="view-title" tabindex="-1">Workflows</h1><span class="spring"></span>
        <button type="button" class="button primary" data-testid="start-open" onClick=${() => startRun()}><${Icon} name="plus" />Start workflow</button></header>
      <${Filters} key=${round} ns=${ns} filters=${filters} clear=${clear} />
      <${Rows} ns=${ns} list=${list} filters=${filters} page=${page} selected=${route.id} act=${act} startRun=${startRun} clear=${clear} />
    </section>
    ${route.id && html`<${Panel} ns=${ns} route=${route} />`}
  </div>`;
}
