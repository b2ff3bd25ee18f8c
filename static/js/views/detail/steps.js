// The Steps tab: the pipeline that a run publishes as `pipeline_state`, its log, and the buttons of its steps.
//
// Everything is drawn in place: steps and lines are kept by position, and a reader's filter and scroll position are
// his own. `query` is the useQuery of `pipeline_state`; the panel decides how often it is asked.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../../../vendor/htm/preact-standalone.js";
import { change, path, session } from "../../data.js";
import { Badge, exact, isOpen, recall, toast } from "../../ui.js";
import { fillBetween, logOf, stepsOf } from "./pipeline.js";

const NEAR_END_PX = 4;

/** A time as the author wrote it; a number counts seconds since 1970. */
const timeText = (at) => (Number.isFinite(Number(at)) && typeof at !== "string" ? exact(at) : String(at));

function Times({ step }) {
  const times = [step.started, step.completed].filter((at) => at !== null && at !== undefined && at !== "").map(timeText);
  return times.length > 0 && html`<span class="step-times">${times.map((text, at) => html`<span key=${at}>${at ? "– " : ""}${text}</span>`)}</span>`;
}

function Actions({ run, step }) {
  const [busy, setBusy] = useState(false);
  const send = async (action) => {
    setBusy(true);
    const payload = { step: step.name, action, user: session.principal || recall("user") || null };
    try {
      await change("POST", path(["workflows", run.id, "signal", "step_action"], { namespace: run.namespace }), { payload }, [`run:${run.id}`]);
      toast(`${action} → ${step.name}`);
    } catch (error) {
      toast(`${action} → ${step.name}: ${error.message}`, { tone: "red" });
    } finally {
      setBusy(false);
    }
  };
  return html`<span class="step-actions">${step.actions.map((action, at) => html`<button key=${at} type="button" class="button small" data-testid="step-action"
    data-action=${action} disabled=${busy} onClick=${() => send(action)}>${action}</button>`)}</span>`;
}

function Step({ run, step, fill, turning, chosen, choose }) {
  return html`<li class="step tone-${step.tone}" data-testid="step" data-step=${step.index} data-status=${step.status} aria-current=${step.current ? "step" : null}>
      ${fill && html`<span class="connector" data-testid="connector" data-fill=${fill}></span>`}
      <button type="button" class="step-circle ${turning ? "is-turning" : ""}" data-testid="step-circle" aria-pressed=${chosen ? "true" : "false"}
        aria-label="${step.name}: ${step.text}; show only its log lines" onClick=${choose}><span class="glyph" aria-hidden="true">${step.glyph}</span></button>
      <span class="step-name">${step.name}</span>
      <span class="step-status">${step.text}</span>
      <${Times} step=${step} />
      ${isOpen(run) && step.actions.length > 0 && html`<${Actions} run=${run} step=${step} />`}
    </li>`;
}

/** Says once, for those who listen, which steps changed. */
function Announcer({ steps }) {
  const before = useRef(null);
  const [text, setText] = useState("");
  useEffect(() => {
    const known = before.current;
    before.current = new Map(steps.map((step) => [step.index, `${step.name}: ${step.text}`]));
    if (known === null) return;
    const news = [...before.current].filter(([index, line]) => known.get(index) !== line).map(([, line]) => line);
    if (news.length) setText(news.join("; "));
  }, [steps]);
  return html`<p class="visually-hidden" role="status" aria-live="polite">${text}</p>`;
}

/** Keeps the end of a growing box in view until the reader scrolls up or locks it. */
function useTail(content) {
  const box = useRef(null);
  const top = useRef(0);
  const [locked, setLocked] = useState(false);
  useLayoutEffect(() => {
    if (!locked && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [locked, content]);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    const up = scrollTop < top.current;
    top.current = scrollTop;
    if (up && scrollHeight - scrollTop - clientHeight > NEAR_END_PX) setLocked(true);
  };
  return { box, scrolled, locked, toggle: () => setLocked(!locked) };
}

function Log({ lines, live, filter, clear }) {
  const { box, scrolled, locked, toggle } = useTail(`${lines.length} ${filter} ${lines.at(-1)?.text}`);
  return html`<section class="steps-log" aria-label="Log">
    <header class="log-head"><h3>Log</h3><span class="muted">${live ? "live" : "final"}</span><span class="spring"></span>
      ${filter !== null && html`<button type="button" class="button small" data-testid="log-show-all" onClick=${clear}>Show all</button>`}
      <button type="button" class="button small" data-testid="log-lock" aria-pressed=${locked ? "true" : "false"} onClick=${toggle}>${locked ? "Auto-scroll" : "Lock scroll"}</button>
    </header>
    <div class="log-box" ref=${box} onScroll=${scrolled} tabindex="0" role="region" aria-label="Log lines" data-scroll="log">
      ${lines.length === 0 && html`<p class="muted">No log entries yet.</p>`}
      ${lines.map((line, at) => html`<div key=${at} class="log-line" data-testid="log-line" data-step=${line.step} hidden=${filter !== null && line.step !== null && line.step !== filter}>
        <span class="log-time">${line.time}</span><span class="log-text">${line.text}</span></div>`)}
    </div>
  </section>`;
}

export default function Steps({ run, pipeline, failing }) {
  const [chosen, setChosen] = useState(null);
  const steps = stepsOf(pipeline);
  const filter = steps.some((step) => step.index === chosen) ? chosen : null;
  useEffect(() => {
    if (filter !== chosen) setChosen(filter);
  }, [filter, chosen]);
  const open = isOpen(run);
  return html`
    ${failing && html`<p class="steps-failing"><${Badge} glyph="⟳" tone="yellow">Reconnecting<//></p>`}
    <ol class="steps" aria-label="Steps">
      ${steps.map((step, at) => html`<${Step} key=${at} run=${run} step=${step} fill=${at > 0 && fillBetween(steps[at - 1], step)}
        turning=${open && step.status === "running"} chosen=${filter === step.index} choose=${() => setChosen(filter === step.index ? null : step.index)} />`)}
    </ol>
    <${Announcer} steps=${steps} />
    <${Log} lines=${logOf(pipeline)} live=${open} filter=${filter} clear=${() => setChosen(null)} />`;
}
