// The detail of one run, beside the list: what it is, what it waits for, what can be done.

import { html, useEffect, useRef } from "../../vendor/htm/preact-standalone.js";
import { ACTIONS, runAction } from "../actions.js";
import { path, useQuery } from "../data.js";
import { JsonBox } from "../json.js";
import { go, href } from "../route.js";
import { startRun } from "../start.js";
import { Copy, Duration, Failure, Icon, isOpen, Loading, Status, Time } from "../ui.js";

const Fact = ({ name, children }) => html`<div class="fact"><dt>${name}</dt><dd>${children}</dd></div>`;

const Value = ({ name, value }) => value !== null && html`<section><h3>${name}</h3><${JsonBox} value=${value} label=${name} /></section>`;

function Overview({ run }) {
  return html`<dl class="facts">
      <${Fact} name="Run id"><span class="mono">${run.run_id}</span><//>
      <${Fact} name="Queue">${run.task_queue}<//>
      <${Fact} name="Created"><${Time} at=${run.created_at} full /><//>
      <${Fact} name="Completed"><${Time} at=${run.completed_at} full /><//>
      <${Fact} name="Duration"><${Duration} from=${run.created_at} to=${run.completed_at} /><//>
    </dl>
    <${Value} name="Input" value=${run.input} />
    <${Value} name="Result" value=${run.result} />
    ${run.error !== null && html`<section><h3>Error</h3><pre class="error-text">${run.error}</pre></section>`}
    <${Value} name="Search attributes" value=${run.search_attributes} />`;
}

export default function Detail({ ns, id, close }) {
  const topics = [`run:${id}`];
  const { data: run, error, retry, loading } = useQuery(path(["workflows", id], { namespace: ns }), { topics });
  const open = run && isOpen(run);
  const pending = useQuery(open ? path(["workflows", id, "pending"], { namespace: ns }) : null, { topics: [...topics, "workers"] }).data;
  const head = useRef(null);
  useEffect(() => head.current?.focus({ preventScroll: true }), []);
  useEffect(() => {
    const escape = (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]") && !event.defaultPrevented) close();
    };
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  });
  const act = async (name) => {
    const next = await runAction(name, run);
    if (name === "continue" && next) go(href("workflows", { ns, id: next }));
  };
  return html`<aside class="panel" data-testid="detail" data-scroll="detail" aria-labelledby="detail-title">
    <header class="panel-head">
      <div class="panel-title"><h2 id="detail-title" class="mono" tabindex="-1" ref=${head}>${id}</h2><${Copy} text=${id} label="Copy id" />
        <button type="button" class="button quiet square" data-testid="detail-close" aria-label="Close" onClick=${close}><${Icon} name="close" /></button></div>
      ${run && html`<p class="panel-line"><${Status} status=${run.status} /><span>${run.workflow_type}</span></p>`}
      ${open && pending && html`<p class="verdict" data-testid="verdict">${pending.verdict}</p>`}
      ${run && html`<div class="panel-actions">
        ${Object.entries(ACTIONS).filter(([name, { applies }]) => name === "continue" || applies(run)).map(([name, { label, danger }]) => html`<button key=${name} type="button"
          class="button small ${danger ? "danger-quiet" : ""}" data-testid="detail-action-${name}" onClick=${() => act(name)}>${label}</button>`)}
        <button type="button" class="button small" data-testid="start-like" onClick=${() => startRun(ns, run)}>Start one like this</button></div>`}
    </header>
    <div class="panel-body"><${Failure} error=${error} retry=${retry} />${loading && html`<${Loading} />`}${run && html`<${Overview} run=${run} />`}</div>
  </aside>`;
}
