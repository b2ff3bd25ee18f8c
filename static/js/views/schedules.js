// The schedules of a namespace.

import { html } from "../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../data.js";
import { href } from "../route.js";
import { Badge, Empty, Failure, Loading, Table, Time } from "../ui.js";

const HEAD = ["Name", "Type", "Cron", "Timezone", "Next run", "Last run", "Queue", "Overlap", "State"];

const Row = ({ ns, schedule }) => html`<tr data-row data-testid="schedule-row" data-name=${schedule.name}>
  <td class="mono">${schedule.name}</td><td>${schedule.workflow_type}</td><td class="mono">${schedule.cron_expr}</td><td>${schedule.timezone}</td>
  <td><${Time} at=${schedule.next_run_at} /></td>
  <td>${schedule.last_workflow_id ? html`<a href=${href("workflows", { ns, id: schedule.last_workflow_id })}><${Time} at=${schedule.last_run_at} /></a>` : html`<${Time} at=${schedule.last_run_at} />`}</td>
  <td>${schedule.task_queue}</td><td>${schedule.overlap_policy}</td>
  <td>${schedule.paused ? html`<${Badge} glyph="‖" tone="yellow">paused<//>` : html`<${Badge} glyph="✓" tone="green">active<//>`}</td>
</tr>`;

export default function Schedules({ ns }) {
  const { data, error, retry, loading } = useQuery(path(["schedules"], { namespace: ns }), { topics: ["schedules"] });
  return html`<section class="list" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Schedules</h1></header>
    <${Failure} error=${error} retry=${retry} />
    ${loading && html`<${Loading} />`}
    ${data && !data.length && html`<${Empty} title="No schedules in ${ns} yet" />`}
    ${data?.length > 0 && html`<${Table} label="Schedules" scroll="schedules" head=${HEAD}>${data.map((schedule) => html`<${Row} key=${schedule.name} ns=${ns} schedule=${schedule} />`)}<//>`}
  </section>`;
}
