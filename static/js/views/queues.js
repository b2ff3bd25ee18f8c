// The task queues of a namespace.

import { html } from "../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../data.js";
import { href } from "../route.js";
import { duration, Empty, Failure, Loading, Table } from "../ui.js";

const HEAD = ["Queue", "Pending tasks", "Running tasks", "Pending activities", "Running activities", "Backing off", "Oldest waiting", "Workers"];

const Row = ({ ns, queue }) => html`<tr data-row data-testid="queue-row" data-queue=${queue.queue}>
  <td><a href=${href("workflows", { ns, task_queue: queue.queue })}>${queue.queue}</a></td>
  <td>${queue.pending_workflow_tasks}</td><td>${queue.running_workflow_tasks}</td>
  <td>${queue.pending_activities}</td><td>${queue.running_activities}</td><td>${queue.backoff_activities}</td>
  <td>${queue.oldest_pending_secs === null ? "–" : duration(queue.oldest_pending_secs)}</td><td>${queue.workers}</td>
</tr>`;

export default function Queues({ ns }) {
  const { data, error, retry, loading } = useQuery(path(["queues"], { namespace: ns }), { topics: ["queues"] });
  return html`<section class="list" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Queues</h1></header>
    <${Failure} error=${error} retry=${retry} />
    ${loading && html`<${Loading} />`}
    ${data && !data.length && html`<${Empty} title="No queues in ${ns} yet" />`}
    ${data?.length > 0 && html`<${Table} label="Queues" scroll="queues" head=${HEAD}>${data.map((queue) => html`<${Row} key=${queue.queue} ns=${ns} queue=${queue} />`)}<//>`}
  </section>`;
}
