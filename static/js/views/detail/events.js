// The Events tab: the history, newest 200 first to come, the chosen event's payload beside it.
//
// Three ways to read it: every event, compact (all events of one activity, timer or child in one row), and as JSON.

import { html, useState } from "../../../vendor/htm/preact-standalone.js";
import { JsonBox } from "../../json.js";
import { duration, exact, Failure, Loading, recall, remember, toast } from "../../ui.js";
import { toJson } from "../../data.js";
import { aboutEvent, folded, useHistory, wholeHistory } from "./history.js";

const MODES = { all: "All", compact: "Compact", json: "JSON" };
const WINDOW = 200;

const TONES = [
  [/Failed$|TimedOut$/, "red", "✕"],
  [/Cancel/, "orange", "⊘"],
  [/Completed$|Fired$/, "green", "✓"],
  [/Signal/, "accent", "↯"],
  [/Scheduled$|Started$/, "accent", "▸"],
];

function Type({ type }) {
  const [, tone, glyph] = TONES.find(([pattern]) => pattern.test(type)) || [null, "muted", "·"];
  return html`<span class="event-type tone-${tone}"><span class="glyph" aria-hidden="true">${glyph}</span>${type}</span>`;
}

const clock = (at) => exact(at).split(" ")[1];

function Row({ row, chosen, choose }) {
  const [first] = row.events;
  const last = row.events.at(-1);
  const many = row.events.length > 1;
  return html`<li><button type="button" class="event-row" data-testid="event-row" data-seq=${row.seq} aria-pressed=${chosen ? "true" : "false"} onClick=${choose}>
    <span class="event-seq">#${row.seq}</span>
    <span class="event-what"><${Type} type=${last.event_type} />${aboutEvent(first) && html`<span class="event-about">${aboutEvent(first)}</span>`}</span>
    ${many && html`<span class="muted">${row.events.length} events, ${duration(last.timestamp - first.timestamp)}</span>`}
    <time class="event-time" datetime=${new Date(Number(first.timestamp) * 1000).toISOString()} title=${exact(first.timestamp)}>${clock(first.timestamp)}</time>
  </button></li>`;
}

function Chosen({ row }) {
  if (!row) return html`<div class="event-payload"><p class="muted">Choose an event to see its payload.</p></div>`;
  return html`<div class="event-payload" data-testid="event-payload">${row.events.map((event) => html`<section key=${event.seq}>
    <h3>#${event.seq} ${event.event_type}</h3><p class="muted">${exact(event.timestamp)}</p>
    <${JsonBox} value=${event.payload} label="Payload of event ${event.seq}" name="event-${event.seq}.json" /></section>`)}</div>`;
}

async function save(ns, run) {
  try {
    const text = toJson(await wholeHistory(ns, run.id), 2);
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: address, download: `${run.id.replaceAll(/[^\w.-]+/g, "_")}-events.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  } catch (error) {
    toast(`The history could not be read: ${error.message}`, { tone: "red" });
  }
}

function Modes({ mode, choose, ns, run }) {
  return html`<div class="event-tools"><div class="segments" role="group" aria-label="How to show events">
      ${Object.entries(MODES).map(([name, label]) => html`<button key=${name} type="button" class="button small" data-testid="events-${name}" aria-pressed=${name === mode ? "true" : "false"}
        onClick=${() => choose(name)}>${label}</button>`)}</div>
    <span class="spring"></span><button type="button" class="button small" data-testid="events-download" onClick=${() => save(ns, run)}>Download</button></div>`;
}

export default function Events({ ns, run }) {
  const { events, error, retry, older } = useHistory(ns, run);
  const [mode, setMode] = useState(Object.hasOwn(MODES, recall("events") ?? "") ? recall("events") : "all");
  const [chosen, setChosen] = useState(null);
  const [most, setMost] = useState(WINDOW);
  if (!events) return error ? html`<${Failure} error=${error} retry=${retry} />` : html`<${Loading} />`;
  const choose = (name) => {
    remember("events", name);
    setMode(name);
  };
  const rows = mode === "compact" ? folded(events) : events.map((event) => ({ seq: event.seq, events: [event] }));
  const shown = rows.slice(-most);
  const back = shown.length < rows.length || older;
  const earlier = () => {
    setMost(most + WINDOW);
    if (older) older();
  };
  return html`<${Failure} error=${error} retry=${retry} /><${Modes} mode=${mode} choose=${choose} ns=${ns} run=${run} />
    ${back && html`<p><button type="button" class="button small" data-testid="events-older" onClick=${earlier}>Show older events</button></p>`}
    ${mode === "json"
      ? html`<${JsonBox} value=${events} label="Events" name="events.json" />`
      : html`<div class="events"><ol class="event-list" aria-label="Events">${shown.map((row) => html`<${Row} key=${row.seq} row=${row} chosen=${chosen === row.seq}
            choose=${() => setChosen(chosen === row.seq ? null : row.seq)} />`)}</ol>
          <${Chosen} row=${rows.find((row) => row.seq === chosen)} /></div>`}`;
}
