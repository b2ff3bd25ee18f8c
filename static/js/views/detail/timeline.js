// The Timeline tab: one bar per activity, timer, wait and child. Only the rows on screen exist.

import { html, useMemo, useRef, useState } from "../../../vendor/htm/preact-standalone.js";
import { duration, Empty, exact, Failure, isOpen, Loading, useTick } from "../../ui.js";
import { thingsOf, useHistory } from "./history.js";
import { scaleOf, silences } from "./scale.js";

const ROW_PX = 28;
const SPARE_ROWS = 8;
const BOX_PX = 480;
const LEAST_WIDTH = 0.004;

const KINDS = { activity: "Activity", timer: "Timer", wait: "Waits for", child: "Child" };
const TONES = { done: "green", failed: "red", cancelled: "orange", "timed out": "yellow", open: "accent" };

const percent = (share) => `${(share * 100).toFixed(3)}%`;

function spoken(item, now) {
  const attempts = item.attempts > 1 ? `, ${item.attempts} attempts` : "";
  const end = item.to === null ? `running since ${exact(item.from)}` : `${exact(item.from)} to ${exact(item.to)}`;
  return `${KINDS[item.kind]} ${item.name}: ${item.outcome}${attempts}, ${duration((item.to ?? now) - item.from)}, ${end}`;
}

function Bar({ item, at, scale, now, tell }) {
  const left = scale(item.from);
  const width = Math.max(LEAST_WIDTH, scale(item.to ?? now) - left);
  const text = spoken(item, now);
  return html`<div class="timeline-row" style=${{ top: `${at * ROW_PX}px` }} data-testid="timeline-row" data-kind=${item.kind} data-outcome=${item.outcome}>
    <span class="timeline-name" title=${item.name}>${item.name}${item.attempts > 1 && html` <span class="attempts">×${item.attempts}</span>`}</span>
    <span class="timeline-lane"><button type="button" class="timeline-bar kind-${item.kind} tone-${TONES[item.outcome]}" aria-label=${text} title=${text}
      style=${{ left: percent(Math.min(left, 1 - LEAST_WIDTH)), width: percent(width) }} onFocus=${() => tell(text)} onMouseEnter=${() => tell(text)}></button></span></div>`;
}

/** Activity records know about attempts of which no event tells yet. */
function withAttempts(things, activities) {
  const attempts = new Map((activities || []).map((activity) => [`activity ${activity.activity_seq}`, activity.attempt]));
  return things.map((item) => (attempts.get(item.key) > item.attempts ? { ...item, attempts: attempts.get(item.key) } : item));
}

function Folds({ gaps, open, scale, toggle }) {
  return html`<div class="timeline-folds"><span class="timeline-name muted">${gaps.length ? "Idle time" : ""}</span><span class="timeline-lane">
    ${gaps.map((gap) => html`<button key=${gap.from} type="button" class="timeline-fold" data-testid="timeline-fold" aria-pressed=${open.has(gap.from) ? "true" : "false"}
      aria-label="${open.has(gap.from) ? "Fold" : "Unfold"} ${duration(gap.to - gap.from)} of idle time" title="${duration(gap.to - gap.from)} idle"
      style=${{ left: percent(scale(gap.from)), width: percent(scale(gap.to) - scale(gap.from)) }} onClick=${() => toggle(gap.from)}>⋯</button>`)}</span></div>`;
}

function Rows({ things, scale, now, running, tell }) {
  const [top, setTop] = useState(0);
  const box = useRef(null);
  const height = Math.min(BOX_PX, things.length * ROW_PX);
  const first = Math.max(0, Math.floor(top / ROW_PX) - SPARE_ROWS);
  const shown = things.slice(first, first + Math.ceil(BOX_PX / ROW_PX) + 2 * SPARE_ROWS);
  return html`<div class="timeline-box" ref=${box} data-scroll="timeline" tabindex="0" role="region" aria-label="Bars" style=${{ height: `${height + 2}px` }}
      onScroll=${() => setTop(box.current.scrollTop)}>
    <div class="timeline-rows" style=${{ height: `${things.length * ROW_PX}px` }}>
      ${shown.map((item, at) => html`<${Bar} key=${item.key} item=${item} at=${first + at} scale=${scale} now=${now} tell=${tell} />`)}
      ${running && html`<div class="timeline-now" aria-hidden="true"><span class="timeline-name"></span><span class="timeline-lane"><span class="now-line" data-testid="now-line" style=${{ left: percent(scale(now)) }}></span></span></div>`}
    </div></div>`;
}

export default function Timeline({ ns, run, activities }) {
  const { events, error, retry } = useHistory(ns, run, true);
  const running = isOpen(run);
  const now = Math.max(useTick(running), run.completed_at ?? 0);
  const [failedOnly, setFailedOnly] = useState(false);
  const [unfolded, setUnfolded] = useState(new Set());
  const [told, tell] = useState("");
  const things = useMemo(() => withAttempts(thingsOf(events || [], run.completed_at), activities.data), [events, run.completed_at, activities.data]);
  if (!events) return error ? html`<${Failure} error=${error} retry=${retry} />` : html`<${Loading} />`;
  if (!things.length) return html`<${Empty} title="Nothing to draw yet"><p>Activities, timers, waits and children appear here as bars.</p><//>`;
  const end = running ? now : Number(events.at(-1).timestamp);
  const moments = [...events.map((event) => Number(event.timestamp)), end];
  const gaps = silences(moments);
  const scale = scaleOf(moments[0], Math.max(end, moments[0]), gaps.filter((gap) => !unfolded.has(gap.from)));
  const failed = things.filter((item) => item.outcome === "failed" || item.outcome === "timed out");
  const toggle = (from) => {
    const next = new Set(unfolded);
    if (!next.delete(from)) next.add(from);
    setUnfolded(next);
  };
  return html`<${Failure} error=${error} retry=${retry} />
    <div class="event-tools"><span class="muted">${exact(moments[0])} · ${duration(end - moments[0])}</span><span class="spring"></span>
      <button type="button" class="button small" data-testid="timeline-failed" aria-pressed=${failedOnly ? "true" : "false"} onClick=${() => setFailedOnly(!failedOnly)}>Only failed (${failed.length})</button></div>
    <div class="timeline">${(running || gaps.length > 0) && html`<${Folds} gaps=${gaps} open=${unfolded} scale=${scale} toggle=${toggle} />`}
      <${Rows} things=${failedOnly ? failed : things} scale=${scale} now=${now} running=${running} tell=${tell} /></div>
    <p class="timeline-told muted" role="status">${told || "Point at a bar, or walk through the bars with Tab, to read its times."}</p>`;
}
