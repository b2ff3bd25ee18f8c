// The Overview tab: what the run is, what it got and what it gave.

import { html } from "../../../vendor/htm/preact-standalone.js";
import { toJson } from "../../data.js";
import { JsonBox } from "../../json.js";
import { href } from "../../route.js";
import { Duration, duration, Time } from "../../ui.js";

const Fact = ({ name, wide, children }) => html`<div class="fact ${wide ? "is-wide" : ""}"><dt>${name}</dt><dd>${children}</dd></div>`;

const Value = ({ name, value }) => value !== null && html`<section><h3>${name}</h3><${JsonBox} value=${value} label=${name} name="${name.toLowerCase()}.json" /></section>`;

/** Search attributes; each leads to the runs that have the same value. */
function Attributes({ ns, values }) {
  const entries = Object.entries(values);
  if (!entries.length) return null;
  return html`<section><h3>Search attributes</h3><ul class="chips">${entries.map(([name, value]) => html`<li key=${name}><a class="chip" data-testid="attribute" title="Show runs with this value"
    href=${href("workflows", { ns, search_attrs: toJson({ [name]: value }) })}><span class="chip-name">${name}</span> ${typeof value === "string" ? value : toJson(value)}</a></li>`)}</ul></section>`;
}

const TaskError = ({ run }) => html`<section><h3>The workflow task fails</h3>
  <p>Attempt ${run.task_attempts}, last at <${Time} at=${run.task_error.timestamp} full />. The history is untouched; the task is tried again with a growing pause.</p>
  <pre class="error-text" tabindex="0" role="region" aria-label="Task error">${run.task_error.kind}: ${run.task_error.error}</pre></section>`;

export default function Overview({ ns, run }) {
  return html`
    ${run.task_error !== null && html`<${TaskError} run=${run} />`}
    ${run.error !== null && html`<section><h3>Error</h3><pre class="error-text" tabindex="0" role="region" aria-label="Error">${run.error}</pre></section>`}
    <dl class="facts">
      <${Fact} name="Run id" wide><span class="mono">${run.run_id}</span><//>
      <${Fact} name="Queue"><a href=${href("workflows", { ns, task_queue: run.task_queue })}>${run.task_queue}</a><//>
      <${Fact} name="Created"><${Time} at=${run.created_at} full /><//>
      <${Fact} name="Completed"><${Time} at=${run.completed_at} full /><//>
      <${Fact} name="Duration"><${Duration} from=${run.created_at} to=${run.completed_at} /><//>
      <${Fact} name="Claimed by">${run.claimed_by ? html`<a class="mono" href=${href("workers", { ns })}>${run.claimed_by}</a>` : html`<span class="none">–</span>`}<//>
      <${Fact} name="Execution time-out">${run.execution_timeout_secs === null ? "none" : duration(run.execution_timeout_secs)}<//>
      <${Fact} name="Events">${run.history_length}<//>
    </dl>
    <${Attributes} ns=${ns} values=${run.search_attributes} />
    <${Value} name="Input" value=${run.input} />
    <${Value} name="Result" value=${run.result} />`;
}
