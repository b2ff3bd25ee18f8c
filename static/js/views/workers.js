// The workers of a namespace: who is there, what each can do, and whether it still answers.

import { html, useState } from "../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../data.js";
import { config, href } from "../route.js";
import { Badge, Copy, Empty, Failure, Loading, Table, Time, useTick } from "../ui.js";

const NUMBER = (name) => html`<th scope="col" class="number">${name}</th>`;
const HEAD = ["Status", "Identity", "Queue", NUMBER("Workflow tasks"), NUMBER("Activities"), "Last heartbeat", "ID"];
const LATE_AFTER = 2; // heartbeat intervals

function Health({ worker }) {
  const silent = useTick(worker.status === "active") - worker.last_heartbeat;
  if (worker.status !== "active") return html`<${Badge} glyph="✕" tone="red">lost<//>`;
  if (silent > LATE_AFTER * config.heartbeatSecs) return html`<${Badge} glyph="!" tone="yellow">late<//>`;
  return html`<${Badge} glyph="✓" tone="green">active<//>`;
}

const Names = ({ label, names }) => html`<div class="fact"><dt>${label}</dt><dd>${names.length ? html`<ul class="chips">${names.map((name) => html`<li key=${name} class="chip">${name}</li>`)}</ul>` : "none"}</dd></div>`;

const More = ({ worker }) => html`<tr class="row-more"><td colspan=${HEAD.length}><dl class="facts">
  <div class="fact"><dt>Registered</dt><dd><${Time} at=${worker.registered_at} full /></dd></div>
  <div class="fact"><dt>Keeps runs in memory</dt><dd>${worker.sticky ? "yes" : "no"}</dd></div>
  <${Names} label="Workflow types" names=${worker.workflows} /><${Names} label="Activities" names=${worker.activities} /></dl></td></tr>`;

function Row({ ns, worker }) {
  const [open, setOpen] = useState(false);
  return html`<tr data-row data-testid="worker-row" data-id=${worker.id} data-status=${worker.status}>
      <td class="nowrap"><${Health} worker=${worker} /></td>
      <td class="cell-unfold"><button type="button" class="button quiet small square" aria-expanded=${open ? "true" : "false"} aria-label="Details of ${worker.identity}" onClick=${() => setOpen(!open)}>${open ? "▾" : "▸"}</button>${worker.identity}</td>
      <td><a href=${href("workflows", { ns, task_queue: worker.task_queue })}>${worker.task_queue}</a></td>
      <td class="number">${worker.active_workflow_tasks}/${worker.max_concurrent_workflows}</td><td class="number">${worker.active_activities}/${worker.max_concurrent_activities}</td>
      <td class="nowrap"><${Time} at=${worker.last_heartbeat} /></td>
      <td class="nowrap"><span class="mono cell-worker" title=${worker.id}>${worker.id}</span><${Copy} text=${worker.id} label="Copy worker id" /></td></tr>
    ${open && html`<${More} worker=${worker} />`}`;
}

export default function Workers({ ns }) {
  const { data, error, retry, loading } = useQuery(path(["workers"], { namespace: ns }), { topics: ["workers", "tasks"], every: 5000 });
  return html`<section class="list" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Workers</h1></header>
    <${Failure} error=${error} retry=${retry} />
    ${loading && html`<${Loading} />`}
    ${data && !data.length && html`<${Empty} title="No workers in ${ns}"><p>Start one with <code class="mono">assay run worker.lua</code>, or any program that speaks the worker protocol.</p><//>`}
    ${data?.length > 0 && html`<${Table} label="Workers" scroll="workers" head=${HEAD}>${data.map((worker) => html`<${Row} key=${worker.id} ns=${ns} worker=${worker} />`)}<//>`}
  </section>`;
}
