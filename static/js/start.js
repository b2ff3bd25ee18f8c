// The form that starts a run.

import { html } from "../vendor/htm/preact-standalone.js";
import { change, path, toJson, useQuery } from "./data.js";
import { FormDialog, jsonValue, JsonField, TextField } from "./forms.js";
import { href } from "./route.js";
import { openDialog, toast } from "./ui.js";

const text = (value = "") => value.trim();

/** An id for a run of `type`, as unlikely to be taken as it is easy to read. */
export function newId(type) {
  const random = crypto.getRandomValues(new Uint16Array(1))[0].toString(16).padStart(4, "0");
  return `wf-${type}-${Date.now()}-${random}`;
}

/** The first values of a form that starts a run like `run`. */
const likeValues = (run) => ({
  workflow_type: run.workflow_type,
  task_queue: run.task_queue,
  input: run.input === null ? "" : toJson(run.input, 2),
  search_attributes: toJson(ownAttributes(run.search_attributes), 2).replace(/^{}$/, ""),
});

/** Search attributes without the stamp that the engine puts on every run. */
function ownAttributes({ assay_engine_version: _stamp, ...rest }) {
  return rest;
}

function StartDialog({ ns, like, close }) {
  const workers = (useQuery(path(["workers"], { namespace: ns }), { topics: ["workers"] }).data || []).filter((worker) => worker.status === "active");
  const namespaces = (useQuery("/namespaces", { topics: ["namespaces"] }).data || []).map(({ name }) => name);
  const types = [...new Set(workers.flatMap((worker) => worker.workflows))].sort();
  const queues = [...new Set(["default", ...workers.map((worker) => worker.task_queue)])].sort().map((name) => {
    const count = workers.filter((worker) => worker.task_queue === name).length;
    return { value: name, label: `${name}: ${count} ${count === 1 ? "worker" : "workers"}` };
  });
  const send = async (values) => {
    const type = text(values.workflow_type);
    const queue = text(values.task_queue) || "default";
    const namespace = text(values.namespace) || ns;
    const body = {
      workflow_type: type,
      workflow_id: text(values.workflow_id) || newId(type),
      namespace,
      task_queue: queue,
      input: jsonValue(values.input || ""),
      search_attributes: jsonValue(values.search_attributes || ""),
    };
    const { workflow_id: id } = await change("POST", "/workflows", body, ["list", "queues"]);
    const served = workers.some((worker) => worker.task_queue === queue && worker.workflows.includes(type));
    const where = { href: href("workflows", { ns: namespace, id }), link: "Open" };
    toast(`Started ${id}`, where);
    if (!served && namespace === ns) toast(`No worker on queue '${queue}' takes runs of type '${type}'; the run waits for one.`, { tone: "yellow" });
    close(id);
  };
  const initial = { namespace: ns, ...(like ? likeValues(like) : {}) };
  return html`<${FormDialog} title=${like ? "Start a run like this one" : "Start workflow"} subject=${like?.id} wide close=${close} submit="Start" send=${send} initial=${initial} data-testid="start-form">
    <${TextField} name="workflow_type" label="Type" required options=${types} />
    <${TextField} name="workflow_id" label="Id" mono hint="Blank: one is made from the type and the time." />
    <div class="field-pair">
      <${TextField} name="namespace" label="Namespace" options=${namespaces} />
      <${TextField} name="task_queue" label="Task queue" options=${queues} placeholder="default" />
    </div>
    <${JsonField} name="input" label="Input (JSON)" rows="6" />
    <${JsonField} name="search_attributes" label="Search attributes (JSON object)" object rows="3" />
  <//>`;
}

/** Open the form; `like` is a run whose type, queue, input and search attributes are filled in. */
export const startRun = (ns, like = null) => openDialog(StartDialog, { ns, like });
