// The Activities tab: every activity of the run, with its attempts, its last error and its next try.

import { html, useState } from "../../../vendor/htm/preact-standalone.js";
import { toJson } from "../../data.js";
import { JsonBox } from "../../json.js";
import { Empty, Failure, Loading, Status, Table, Time } from "../../ui.js";

const COLUMNS = 7;
const SHOWN = 200;

function More({ activity }) {
  return html`<tr class="row-more"><td colspan=${COLUMNS}><div class="more">
    ${activity.error !== null && html`<section><h4>Last error</h4><pre class="error-text" tabindex="0" role="region" aria-label="Last error">${activity.error}</pre></section>`}
    <section><h4>Input</h4><${JsonBox} value=${activity.input} label="Input" /></section>
    ${activity.result !== null && html`<section><h4>Result</h4><${JsonBox} value=${activity.result} label="Result" /></section>`}
    ${activity.heartbeat_details !== null && html`<section><h4>Heartbeat</h4><${JsonBox} value=${activity.heartbeat_details} label="Heartbeat details" /></section>`}
    <p class="muted">Scheduled <${Time} at=${activity.scheduled_at} full />, started <${Time} at=${activity.started_at} full />, ended <${Time} at=${activity.completed_at} full />,
      last heartbeat <${Time} at=${activity.last_heartbeat} full />.</p>
  </div></td></tr>`;
}

/** The end of an error is seldom needed to recognise it. */
const short = (text) => (text.length > 160 ? `${text.slice(0, 160)}…` : text);

function Row({ activity, next }) {
  const [open, setOpen] = useState(false);
  return html`<tr data-row data-testid="activity-row" data-seq=${activity.activity_seq}>
      <td class="cell-unfold"><button type="button" class="button quiet small square" aria-expanded=${open ? "true" : "false"} aria-label="Details of ${activity.name} #${activity.activity_seq}"
        onClick=${() => setOpen(!open)}>${open ? "▾" : "▸"}</button>${activity.name}</td>
      <td><${Status} status=${activity.status} /></td><td class="number">${activity.attempt}/${activity.max_attempts}</td><td>${activity.task_queue}</td>
      <td class="cell-error">${activity.error === null ? html`<span class="none">–</span>` : short(activity.error)}</td>
      <td>${next ? html`<${Time} at=${next} />` : html`<span class="none">–</span>`}</td>
      <td class="cell-error mono">${activity.result === null ? html`<span class="none">–</span>` : short(toJson(activity.result))}</td></tr>
    ${open && html`<${More} activity=${activity} />`}`;
}

export default function Activities({ activities: { data, error, retry }, pending }) {
  const [most, setMost] = useState(SHOWN);
  if (!data) return error ? html`<${Failure} error=${error} retry=${retry} />` : html`<${Loading} />`;
  if (!data.length) return html`<${Empty} title="No activities"><p>A handler runs one with <code class="mono">ctx:execute_activity</code>.</p><//>`;
  const next = new Map((pending?.activities || []).map((activity) => [activity.activity_seq, activity.next_retry_at]));
  const shown = data.slice(-most);
  return html`<${Failure} error=${error} retry=${retry} />
    ${shown.length < data.length && html`<p><button type="button" class="button small" onClick=${() => setMost(most + SHOWN)}>Show ${Math.min(SHOWN, data.length - shown.length)} earlier</button></p>`}
    <${Table} label="Activities" head=${["Name", "Status", html`<th scope="col" class="number">Attempt</th>`, "Queue", "Last error", "Next attempt", "Result"]}>
      ${shown.map((activity) => html`<${Row} key=${activity.id} activity=${activity} next=${activity.status === "PENDING" ? next.get(activity.activity_seq) : null} />`)}<//>`;
}
