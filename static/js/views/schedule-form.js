// The forms of schedules: create, edit, delete. The next times are shown while the expression is typed.

import { html } from "../../vendor/htm/preact-standalone.js";
import { usePreview } from "../cron.js";
import { change, path, toJson, useQuery } from "../data.js";
import { Confirm, FormDialog, jsonValue, JsonField, SelectField, TextField, useFormValues } from "../forms.js";
import { exact, relative, toast } from "../ui.js";

const POLICIES = [
  { value: "skip", label: "skip: not while the last run is open" },
  { value: "queue", label: "queue: once after the last run" },
  { value: "cancel_old", label: "cancel_old: cancel the last run first" },
  { value: "allow_all", label: "allow_all: side by side" },
];
const EDITABLE = ["cron_expr", "timezone", "task_queue", "overlap_policy"];
const ZONES = Intl.supportedValuesOf?.("timeZone") ?? [];

const text = (value = "") => value.trim();

function Preview() {
  const { cron_expr: cron = "", timezone = "" } = useFormValues();
  const { preview, error } = usePreview(cron, timezone);
  return html`<div class="cron-preview" data-testid="cron-preview" aria-live="polite">
    ${error && html`<p class="error">${error.message}</p>`}
    ${preview && html`<p>${preview.description} <span class="muted">(${timezone.trim() || "UTC"}), on your clock:</span></p><ol>${preview.next_runs.map((at) => html`<li key=${at}><time datetime=${new Date(at * 1000).toISOString()}>${exact(at).slice(0, -4)}</time> <span class="muted">${relative(at)}</span></li>`)}</ol>`}
    ${!preview && !error && html`<p class="muted">The next times appear here.</p>`}
  </div>`;
}

const Fields = ({ ns, fixed = false }) => {
  const workers = useQuery(path(["workers"], { namespace: ns }), { topics: ["workers"] }).data || [];
  const types = [...new Set(workers.flatMap((worker) => worker.workflows))].sort();
  const queues = [...new Set(["default", ...workers.map((worker) => worker.task_queue)])].sort();
  return html`<div class="field-pair">
      <${TextField} name="name" label="Name" required readonly=${fixed} mono />
      <${TextField} name="workflow_type" label="Workflow type" required readonly=${fixed} options=${fixed ? undefined : types} />
    </div>
    <div class="field-pair">
      <${TextField} name="cron_expr" label="Cron" required mono hint="6 or 7 fields, seconds first: 0 */5 * * * * is every five minutes." placeholder="0 0 2 * * *" />
      <${TextField} name="timezone" label="Timezone" options=${["UTC", ...ZONES]} placeholder="UTC" />
    </div>
    <${Preview} />
    <div class="field-pair">
      <${TextField} name="task_queue" label="Task queue" options=${queues} placeholder="default" />
      <${SelectField} name="overlap_policy" label="When the last run is still open" options=${POLICIES} />
    </div>
    <${JsonField} name="input" label="Input (JSON)" rows="4" />`;
};

export function CreateDialog({ ns, close }) {
  const send = async (values) => {
    const name = text(values.name);
    const body = {
      name,
      workflow_type: text(values.workflow_type),
      cron_expr: text(values.cron_expr),
      timezone: text(values.timezone) || undefined,
      task_queue: text(values.task_queue) || undefined,
      overlap_policy: values.overlap_policy,
      input: jsonValue(values.input || ""),
    };
    await change("POST", path(["schedules"], { namespace: ns }), body, ["schedules"]);
    toast(`Schedule '${name}' created`);
    close(name);
  };
  return html`<${FormDialog} title="Create schedule" wide close=${close} submit="Create" send=${send} initial=${{ overlap_policy: "skip" }} data-testid="schedule-form"><${Fields} ns=${ns} /><//>`;
}

const valuesOf = (schedule) => ({
  ...Object.fromEntries(["name", "workflow_type", ...EDITABLE].map((name) => [name, schedule[name]])),
  input: schedule.input === null ? "" : toJson(schedule.input, 2),
});

/** Only what differs from what the form showed at first; a blank input is cleared. */
function changesOf(values, initial) {
  const body = {};
  for (const name of EDITABLE) if (text(values[name]) !== initial[name]) body[name] = text(values[name]) || (name === "timezone" ? "UTC" : name === "task_queue" ? "default" : "");
  if (values.input !== initial.input) body.input = jsonValue(values.input) ?? null;
  return body;
}

export function EditDialog({ ns, schedule, close }) {
  const initial = valuesOf(schedule);
  const address = path(["schedules", schedule.name], { namespace: ns });
  const { data: now, error } = useQuery(address, { topics: ["schedules"] });
  const other = now && toJson(valuesOf(now)) !== toJson(initial);
  const send = async (values) => {
    await change("PATCH", address, changesOf(values, initial), ["schedules"]);
    toast(`Schedule '${schedule.name}' saved`);
    close(schedule.name);
  };
  const gone = error?.status === 404 && "This schedule was deleted meanwhile.";
  const notice = gone || (other && "Changed elsewhere meanwhile; saving sends only the fields that you changed.");
  return html`<${FormDialog} title="Edit schedule" subject=${schedule.name} wide close=${close} submit="Save" send=${send} initial=${initial} data-testid="schedule-form"
    notice=${notice && html`<p class="message warning" role="status" data-testid="changed-elsewhere">${notice}</p>`}><${Fields} ns=${ns} fixed /><//>`;
}

export const DeleteDialog = ({ ns, schedule, close }) => html`<${Confirm} title="Delete schedule ${schedule.name}?" text="It starts no further runs. Runs that it started go on." close=${close}
  send=${async () => {
    await change("DELETE", path(["schedules", schedule.name], { namespace: ns }), undefined, ["schedules"]);
    toast(`Schedule '${schedule.name}' deleted`);
  }} />`;
