// The task queues of a namespace: what waits, what runs, and whether anybody takes it.

import { html } from "../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../data.js";
import { href } from "../route.js";
import { Badge, duration, Empty, Failure, Loading, Table } from "../ui.js";

const NUMBERS = { pending_workflow_tasks: "Pending tasks", running_workflow_tasks: "Running tasks", pending_activities: "Pending activities", running_activities: "Running activities", backoff_activities: "Backing off" };
const NUMBER = (name) => html`<th key=${name} scope="col" class="number">${name}</th>`;
const HEAD = ["Queue", ...Object.values(NUMBERS).map(NUMBER), NUMBER("Oldest waiting"), NUMBER("Workers")];

const waits = (queue) => queue.pending_workflow_tasks + queue.pending_activities + queue.backoff_activities > 0;

const Row = ({ ns, queue }) => html`<tr data-row data-testid="queue-row" data-queue=${queue.queue}>
  <td><a href=${href("workflows", { ns, task_queue: queue.queue })}>${queue.queue}</a>
    ${queue.workers === 0 && waits(queue) && html` <${Badge} glyph="!" tone="yellow" data-testid="queue-warning">no worker takes this<//>`}</td>
  ${Object.keys(NUMBERS).map((name) => html`<td key=${name} class="number">${queue[name]}</td>`)}
  <td class="number nowrap">${queue.oldest_pending_secs === null ? "–" : duration(queue.oldest_pending_secs)}</td>
  <td class="number"><a href=${href("workers", { ns })}>${queue.workers}</a></td>
</tr>`;

export default function Queues({ ns }) {
  const { data, error, retry, loading } = useQuery(path(["queues"], { namespace: ns }), { topics: ["queues", "tasks"], every: 5000 });
  const stuck = (data || []).filter((queue) => queue.workers === 0 && waits(queue)).map(({ queue }) => `'${queue}'`);
  return html`<section class="list" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Queues</h1></header>
    <${Failure} error=${error} retry=${retry} />
    ${stuck.length > 0 && html`<div class="message warning" role="status"><span>Work waits on ${stuck.join(", ")}, and no active worker polls there. Start one with <code class="mono">assay run</code>.</span></div>`}
    ${loading && html`<${Loading} />`}
    ${data && !data.length && html`<${Empty} title="No queues in ${ns} yet"><p>A queue appears with the first run or worker that names it.</p><//>`}
    ${data?.length > 0 && html`<${Table} label="Queues" scroll="queues" head=${HEAD}>${data.map((queue) => html`<${Row} key=${queue.queue} ns=${ns} queue=${queue} />`)}<//>`}
  </section>`;
}
