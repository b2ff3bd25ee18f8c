// The workers of a namespace.

import { html } from "../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../data.js";
import { Badge, Empty, Failure, Loading, Table, Time } from "../ui.js";

const HEAD = ["Status", "Identity", "Queue", "Workflow tasks", "Activities", "Last heartbeat"];

const Row = ({ worker }) => html`<tr data-row data-testid="worker-row" data-id=${worker.id}>
  <td>${worker.status === "active" ? html`<${Badge} glyph="✓" tone="green">active<//>` : html`<${Badge} glyph="✕" tone="red">lost<//>`}</td>
  <td>${worker.identity}</td><td>${worker.task_queue}</td>
  <td>${worker.active_workflow_tasks}/${worker.max_concurrent_workflows}</td><td>${worker.active_activities}/${worker.max_concurrent_activities}</td>
  <td><${Time} at=${worker.last_heartbeat} /></td>
</tr>`;

export default function Workers({ ns }) {
  const { data, error, retry, loading } = useQuery(path(["workers"], { namespace: ns }), { topics: ["workers", "tasks"], every: 5000 });
  return html`<section class="list" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Workers</h1></header>
    <${Failure} error=${error} retry=${retry} />
    ${loading && html`<${Loading} />`}
    ${data && !data.length && html`<${Empty} title="No workers in ${ns}" />`}
    ${data?.length > 0 && html`<${Table} label="Workers" scroll="workers" head=${HEAD}>${data.map((worker) => html`<${Row} key=${worker.id} worker=${worker} />`)}<//>`}
  </section>`;
}
