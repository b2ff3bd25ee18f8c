// The Children tab: the runs that this one started; each opens to show its own.

import { html, useState } from "../../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../../data.js";
import { Duration, Empty, Failure, Loading, Status, Table } from "../../ui.js";
import { runHref } from "../../route.js";

const INDENT_CH = 2;

function Below({ ns, id, depth }) {
  const { data, error, retry } = useQuery(path(["workflows", id, "children"], { namespace: ns }), { topics: [`run:${id}`, "list"] });
  if (!data) return html`<tr><td colspan="4">${error ? html`<${Failure} error=${error} retry=${retry} />` : html`<${Loading} />`}</td></tr>`;
  if (!data.length) return html`<tr><td colspan="4" class="muted"><${Indent} depth=${depth} />${id} started no children</td></tr>`;
  return data.map((run) => html`<${Child} key=${run.id} ns=${ns} run=${run} depth=${depth} />`);
}

const Indent = ({ depth }) => html`<span class="mono" aria-hidden="true">${"\u00a0".repeat(depth * INDENT_CH)}</span>`;

function Child({ ns, run, depth }) {
  const [open, setOpen] = useState(false);
  return html`<tr data-row data-testid="child-row" data-id=${run.id}>
      <td><${Indent} depth=${depth} /><button type="button" class="button quiet small square" aria-expanded=${open ? "true" : "false"} aria-label="Children of ${run.id}"
        onClick=${() => setOpen(!open)}>${open ? "▾" : "▸"}</button> <a class="mono" href=${runHref(ns, run.id)}>${run.id}</a></td>
      <td>${run.workflow_type}</td><td><${Status} status=${run.status} /></td><td><${Duration} from=${run.created_at} to=${run.completed_at} /></td></tr>
    ${open && html`<${Below} ns=${ns} id=${run.id} depth=${depth + 1} />`}`;
}

export default function Children({ ns, children: { data, error, retry } }) {
  if (!data) return error ? html`<${Failure} error=${error} retry=${retry} />` : html`<${Loading} />`;
  if (!data.length) return html`<${Empty} title="No children"><p>A handler starts one with <code class="mono">ctx:start_child_workflow</code>.</p><//>`;
  return html`<${Failure} error=${error} retry=${retry} />
    <${Table} label="Children" head=${["ID", "Type", "Status", "Duration"]}>${data.map((run) => html`<${Child} key=${run.id} ns=${ns} run=${run} depth=${0} />`)}<//>`;
}
