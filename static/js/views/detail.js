// The detail of one run, beside the list: what it is, what it waits for, what can be done, and its tabs.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../../vendor/htm/preact-standalone.js";
import { runAction } from "../actions.js";
import { path, useQuery } from "../data.js";
import { go, goWith, runHref } from "../route.js";
import { startRun } from "../start.js";
import { ACTIONS, Copy, Failure, Guard, Icon, isOpen, Loading, RunStatus, useModule } from "../ui.js";
import { isPipeline, stepsOf } from "./detail/pipeline.js";

const STEPS_POLL_MS = 1000;
const RUN_POLL_MS = 2000; // waits, timers and side effects send no live event
const VERDICT_POLL_MS = 5000; // it says for how long
const PEEK_PX = 24; // of the tabs beside the chosen one

/** tab -> its name and the module that draws it. */
const TABS = {
  steps: ["Steps", () => import("./detail/steps.js")],
  overview: ["Overview", () => import("./detail/overview.js")],
  timeline: ["Timeline", () => import("./detail/timeline.js")],
  events: ["Events", () => import("./detail/events.js")],
  state: ["State", () => import("./detail/state.js")],
  children: ["Children", () => import("./detail/children.js")],
  activities: ["Activities", () => import("./detail/activities.js")],
};

/** `pipeline_state` of the run: asked every second while its tab is on screen and the run is open, and once after that. */
function usePipeline(ns, run, id, shown) {
  const open = Boolean(run && isOpen(run));
  const key = run && !run.archived_at ? path(["workflows", id, "state", "pipeline_state"], { namespace: ns, optional: true }) : null;
  const query = useQuery(key, { topics: [`run:${id}`], every: shown && open ? STEPS_POLL_MS : 0 });
  const was = useRef(open);
  useEffect(() => {
    if (was.current && !open) query.retry();
    was.current = open;
  }, [open]);
  return { pipeline: isPipeline(query.data?.value) ? query.data.value : null, settled: query.data !== undefined || query.error !== null, failing: query.error };
}

/** The tab on screen: the one of the address, else the first one that there was when the panel opened. */
function useTab(named, hasSteps, settled) {
  const [first, setFirst] = useState(null);
  useEffect(() => {
    if (first === null && settled) setFirst(hasSteps ? "steps" : "overview");
  }, [first, settled]);
  const wanted = Object.hasOwn(TABS, named) ? named : first;
  if (wanted !== "steps" || hasSteps) return wanted;
  return settled ? "overview" : null;
}

function TabList({ tabs, selected, counts }) {
  const list = useRef(null);
  useLayoutEffect(() => {
    const { current: box } = list;
    const tab = box.querySelector('[aria-selected="true"]');
    if (!tab) return;
    const at = tab.offsetLeft - box.offsetLeft;
    box.scrollLeft = Math.min(at - PEEK_PX, Math.max(box.scrollLeft, at + tab.offsetWidth + PEEK_PX - box.clientWidth));
  }, [selected, tabs.length, ...Object.values(counts)]);
  const keys = (event) => {
    const at = tabs.indexOf(selected);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const name = tabs.at(to % tabs.length);
    goWith({ tab: name });
    list.current.querySelector(`[data-tab="${name}"]`).focus();
  };
  return html`<div class="tabs" role="tablist" aria-label="Parts of the run" ref=${list} onKeyDown=${keys}>
    ${tabs.map((name) => html`<button key=${name} type="button" role="tab" id="tab-${name}" data-tab=${name} data-testid="tab-${name}" aria-selected=${name === selected ? "true" : "false"}
      aria-controls=${name === selected ? `tabpanel-${name}` : null} tabindex=${name === selected ? 0 : -1} onClick=${() => goWith({ tab: name })}>${TABS[name][0]}${counts[name] === undefined ? "" : ` (${counts[name]})`}</button>`)}
  </div>`;
}

function Panel({ name, ...props }) {
  const { module, error, retry } = useModule(`detail-${name}`, TABS[name][1]);
  return html`<div class="panel-body" role="tabpanel" id="tabpanel-${name}" data-testid="tabpanel-${name}" aria-labelledby="tab-${name}" tabindex="0">
    <${Failure} error=${error} retry=${retry} />
    ${module ? html`<${Guard} name=${TABS[name][0]}><${module.default} ...${props} /><//>` : !error && html`<${Loading} />`}
  </div>`;
}

function Links({ ns, run }) {
  const links = [
    ["Parent", run.parent_id],
    ["Continued from", run.continued_from],
    ["Continued to", run.continued_to],
  ].filter(([, id]) => id);
  return links.length > 0 && html`<p class="links">${links.map(([name, id]) => html`<span key=${name}>${name}: <a class="mono" href=${runHref(ns, id)}>${id}</a></span>`)}</p>`;
}

function Buttons({ ns, run }) {
  const act = async (name) => {
    const next = await runAction(name, run);
    if (name === "continue" && next) go(runHref(ns, next));
  };
  const shown = Object.entries(ACTIONS).filter(([name, { applies }]) => name === "continue" || applies(run));
  return html`<div class="panel-actions">
    ${shown.map(([name, { label, danger }]) => html`<button key=${name} type="button" class="button small ${danger ? "danger-quiet" : ""}"
      data-testid="detail-action-${name}" onClick=${() => act(name)}>${name === "continue" ? "Continue-as-new" : label}</button>`)}
    <button type="button" class="button small" data-testid="start-like" onClick=${() => startRun(ns, run)}>Start one like this</button>
    <${Copy} text=${location.href} label="Copy link" /></div>`;
}

function Head({ ns, id, run, pending, close }) {
  const title = useRef(null);
  useEffect(() => title.current?.focus({ preventScroll: true }), []);
  return html`<header class="panel-head">
    <div class="panel-title"><h2 id="detail-title" class="mono" tabindex="-1" ref=${title}>${id}</h2><${Copy} text=${id} label="Copy id" />
      <button type="button" class="button quiet square" data-testid="detail-close" aria-label="Close" onClick=${close}><${Icon} name="close" /></button></div>
    ${run && html`<p class="panel-line"><${RunStatus} run=${run} /><span>${run.workflow_type}</span></p>`}
    ${pending && html`<p class="verdict" data-testid="verdict">${pending.verdict}</p>`}
    ${run && html`<${Links} ns=${ns} run=${run} /><${Buttons} ns=${ns} run=${run} />`}
  </header>`;
}

/** An archived run keeps its record; the rest is in the bundle. */
const Archived = ({ run }) => html`<div class="panel-body"><div class="message" data-testid="archived"><${Icon} name="docs" />
  <span>This run was archived. Its history is stored at <code class="mono">${run.archive_uri}</code>.</span><${Copy} text=${run.archive_uri} label="Copy address" /></div></div>`;

export default function Detail({ ns, id, tab: named, close }) {
  const topics = [`run:${id}`];
  const of = (...rest) => path(["workflows", id, ...rest], { namespace: ns });
  const { data: run, error, retry, loading } = useQuery(of(), { topics });
  useQuery(run && isOpen(run) ? of() : null, { topics, every: RUN_POLL_MS });
  const details = run && !run.archived_at;
  const pending = useQuery(run && isOpen(run) ? of("pending") : null, { topics: [...topics, "workers"], every: VERDICT_POLL_MS }).data;
  const children = useQuery(details ? of("children") : null, { topics: [...topics, "list"] });
  const activities = useQuery(details ? of("activities") : null, { topics });
  const [showsSteps, setShowsSteps] = useState(false);
  const { pipeline, settled, failing } = usePipeline(ns, run, id, showsSteps);
  const tab = useTab(named, pipeline !== null, settled);
  useEffect(() => setShowsSteps(tab === "steps"), [tab]);
  useEffect(() => {
    const escape = (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]") && !event.defaultPrevented) close();
    };
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  });
  const tabs = Object.keys(TABS).filter((name) => name !== "steps" || pipeline);
  const counts = { steps: pipeline && stepsOf(pipeline).length, events: run?.history_length, children: children.data?.length, activities: activities.data?.length };
  return html`<aside class="panel" data-testid="detail" data-scroll="detail" aria-labelledby="detail-title">
    <${Head} ns=${ns} id=${id} run=${run} pending=${run && isOpen(run) && pending} close=${close} />
    ${(error || loading) && html`<div class="panel-body"><${Failure} error=${error} retry=${retry} />${loading && html`<${Loading} />`}</div>`}
    ${run?.archived_at && html`<${Archived} run=${run} />`}
    ${details && tab && html`<${TabList} tabs=${tabs} selected=${tab} counts=${counts} />
      <${Panel} key=${tab} name=${tab} ns=${ns} run=${run} pending=${pending} pipeline=${pipeline} failing=${failing} children=${children} activities=${activities} />`}
  </aside>`;
}
