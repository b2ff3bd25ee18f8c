// What an operator can do with a run: Signal, Cancel, Terminate, New run. Used by the list and by the detail panel.
//
//   runAction("signal", run)   opens the dialog; gives a promise of the id to look at afterwards, or undefined

import { html } from "../vendor/htm/preact-standalone.js";
import { change, path, toJson } from "./data.js";
import { FormDialog, jsonValue, JsonField, TextField } from "./forms.js";
import { isOpen, openDialog, toast } from "./ui.js";

const post = (run, segments, body) => change("POST", path(["workflows", run.id, ...segments], { namespace: run.namespace }), body, ["list", `run:${run.id}`]);
const textOrNothing = (text = "") => text.trim() || undefined;

function SignalDialog({ run, close }) {
  const send = async ({ name, payload = "" }) => {
    await post(run, ["signal", name.trim()], { payload: jsonValue(payload) });
    toast(`Signal '${name.trim()}' sent`);
    close(run.id);
  };
  return html`<${FormDialog} title="Signal" subject=${run.id} close=${close} submit="Send signal" send=${send}>
    <${TextField} name="name" label="Name" required />
    <${JsonField} name="payload" label="Payload (JSON)" hint="Blank: a signal without payload." />
  <//>`;
}

function CancelDialog({ run, close }) {
  const send = async ({ reason }) => {
    await post(run, ["cancel"], { reason: textOrNothing(reason) });
    toast("Cancel requested");
    close(run.id);
  };
  return html`<${FormDialog} title="Cancel" subject=${run.id} text="The run gets a chance to clean up before it ends." close=${close} submit="Request cancel" leave="Keep running" send=${send}>
    <${TextField} name="reason" label="Reason" />
  <//>`;
}

function TerminateDialog({ run, close }) {
  const send = async ({ reason }) => {
    await post(run, ["terminate"], { reason: textOrNothing(reason) });
    toast("Terminated");
    close(run.id);
  };
  return html`<${FormDialog} title="Terminate" subject=${run.id} text="The run ends at once, without any clean-up." close=${close} submit="Terminate" leave="Keep running" danger send=${send}>
    <${TextField} name="reason" label="Reason" />
  <//>`;
}

function ContinueDialog({ run, close }) {
  const send = async ({ workflow_id: id, input = "" }) => {
    const started = await post(run, ["continue-as-new"], { workflow_id: textOrNothing(id), input: jsonValue(input) });
    toast(`New run started: ${started.workflow_id}`);
    close(started.workflow_id);
  };
  const text = isOpen(run) ? "The current run is closed, and a new one with an empty history takes its place." : "A new run of the same type starts with an empty history.";
  return html`<${FormDialog} title="New run" subject=${run.id} text=${text} close=${close} submit="Start new run" send=${send}
    initial=${{ input: run.input === null ? "" : toJson(run.input, 2) }}>
    <${TextField} name="workflow_id" label="New id" hint="Blank: the engine chooses one." mono />
    <${JsonField} name="input" label="Input (JSON)" />
  <//>`;
}

const DIALOGS = { signal: SignalDialog, cancel: CancelDialog, terminate: TerminateDialog, continue: ContinueDialog };

/** Open the dialog of an action. */
export const runAction = (action, run) => openDialog(DIALOGS[action], { run });
