// The schedules of a namespace: what runs when, and everything that can be done with it.

import { html, useState } from "../../vendor/htm/preact-standalone.js";
import { useReading } from "../cron.js";
import { change, path, useQuery } from "../data.js";
import { href } from "../route.js";
import { Badge, Empty, Failure, Icon, Loading, openDialog, Table, Time, toast } from "../ui.js";

const HEAD = ["Name", "Type", "Cron", "Timezone", "Next run", "Last run", "Queue", "Overlap", "State", html`<th scope="col"><span class="visually-hidden">Actions</span></th>`];

const forms = () => import("./schedule-form.js");

const send = (ns, name, verb) => change("POST", path(["schedules", name, verb], { namespace: ns }), undefined, ["schedules"]);

/** action -> label, and what it does with a schedule. */
const ACTIONS = {
  edit: ["Edit", async (ns, schedule) => openDialog((await forms()).EditDialog, { ns, schedule })],
  pause: ["Pause", async (ns, { name }) => (await send(ns, name, "pause"), toast(`Schedule '${name}' paused`))],
  resume: ["Resume", async (ns, { name }) => (await send(ns, name, "resume"), toast(`Schedule '${name}' resumed`))],
  trigger: ["Run now", async (ns, { name }) => {
    const { workflow_id: id } = await send(ns, name, "trigger");
    toast(`Started ${id}`, { href: href("workflows", { ns, id }), link: "Open" });
  }],
  delete: ["Delete", async (ns, schedule) => openDialog((await forms()).DeleteDialog, { ns, schedule })],
};

function Buttons({ ns, schedule }) {
  const [busy, setBusy] = useState(false);
  const act = async (verb) => {
    setBusy(true);
    try {
      await ACTIONS[verb][1](ns, schedule);
    } catch (error) {
      toast(error.message, { tone: "red" });
    } finally {
      setBusy(false);
    }
  };
  const shown = Object.keys(ACTIONS).filter((verb) => verb !== (schedule.paused ? "pause" : "resume"));
  return html`<td class="cell-actions">${shown.map((verb) => html`<button key=${verb} type="button" class="button small ${verb === "delete" ? "danger-quiet" : ""}"
    data-testid="schedule-action-${verb}" aria-label="${ACTIONS[verb][0]} ${schedule.name}" disabled=${busy} onClick=${() => act(verb)}>${ACTIONS[verb][0]}</button>`)}</td>`;
}

function Cron({ schedule }) {
  const reading = useReading(schedule.cron_expr, schedule.timezone);
  return html`<td class="cell-cron"><span class="mono">${schedule.cron_expr}</span>${reading && html`<span class="cron-reading">${reading}</span>`}</td>`;
}

function LastRun({ ns, schedule: { last_run_at: at, last_workflow_id: id } }) {
  return html`<td class="nowrap">${id ? html`<a href=${href("workflows", { ns, id })} title=${id}><${Time} at=${at} /></a>` : html`<${Time} at=${at} />`}</td>`;
}

const Row = ({ ns, schedule }) => html`<tr data-row data-testid="schedule-row" data-name=${schedule.name}>
  <th scope="row" class="mono cell-name">${schedule.name}</th><td>${schedule.workflow_type}</td><${Cron} schedule=${schedule} /><td>${schedule.timezone}</td>
  <td class="nowrap"><${Time} at=${schedule.next_run_at} /></td><${LastRun} ns=${ns} schedule=${schedule} />
  <td>${schedule.task_queue}</td><td>${schedule.overlap_policy}</td>
  <td>${schedule.paused ? html`<${Badge} glyph="‖" tone="yellow">paused<//>` : html`<${Badge} glyph="✓" tone="green">active<//>`}</td>
  <${Buttons} ns=${ns} schedule=${schedule} />
</tr>`;

export default function Schedules({ ns }) {
  const { data, error, retry, loading } = useQuery(path(["schedules"], { namespace: ns }), { topics: ["schedules"] });
  const create = async () => openDialog((await forms()).CreateDialog, { ns });
  const button = html`<button type="button" class="button primary" data-testid="schedule-open" onClick=${create}><${Icon} name="plus" />Create schedule</button>`;
  return html`<section class="list" aria-labelledby="view-title">
    <header class="view-head"><h1 id="view-title" tabindex="-1">Schedules</h1><span class="spring"></span>${button}</header>
    <${Failure} error=${error} retry=${retry} />
    ${loading && html`<${Loading} />`}
    ${data && !data.length && html`<${Empty} title="No schedules in ${ns} yet"><p>A schedule starts a run by the clock, for example every night.</p><//>`}
    ${data?.length > 0 && html`<${Table} label="Schedules" scroll="schedules" head=${HEAD}>${data.map((schedule) => html`<${Row} key=${schedule.name} ns=${ns} schedule=${schedule} />`)}<//>`}
  </section>`;
}
