// Small parts that every view uses: status badges, times, copy buttons, tables, paging, messages, toasts, dialogs' host.

import { createContext, html, useContext, useEffect, useErrorBoundary, useReducer, useRef, useState } from "../vendor/htm/preact-standalone.js";
import { currentRoute } from "./route.js";

/** Call a function with every change of a {watchers} object and render again. */
export function useWatched(source) {
  const [, again] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    source.watchers.add(again);
    again();
    return () => source.watchers.delete(again);
  }, [source]);
  return source;
}

// ------------------------------------------------------------------------------------------------ preferences

/** A choice of this browser; null where nothing is saved or the browser keeps nothing. */
export function recall(key, store = "localStorage") {
  try {
    return window[store].getItem(`assay:${key}`);
  } catch {
    return null; // storage is switched off
  }
}

/** Save a choice; null forgets it. Gives whether the browser kept it. */
export function remember(key, value, store = "localStorage") {
  try {
    if (value === null) window[store].removeItem(`assay:${key}`);
    else window[store].setItem(`assay:${key}`, value);
    return true;
  } catch {
    return false; // storage is switched off or full: the choice holds for this page only
  }
}

// ------------------------------------------------------------------------------------------------------ icons

const ICONS = {
  workflows: "M3 5h4v4H3zM13 11h4v4h-4zM13 3h4v4h-4zM7 7h3M10 5v8M10 5h3M10 13h3",
  schedules: "M10 3a7 7 0 1 0 .01 0M10 6v4l3 2",
  workers: "M4 4h12v5H4zM4 11h12v5H4zM7 6.5h.01M7 13.5h.01",
  queues: "M3 5h14M3 10h14M3 15h9",
  settings: "M3 6h7M14 6h3M3 14h3M10 14h7M10 4h4v4h-4zM6 12h4v4H6z",
  docs: "M5 3h7l3 3v11H5zM8 9h4M8 12h4",
  back: "M12 4 6 10l6 6",
  theme: "M10 3a7 7 0 1 0 7 7 5.5 5.5 0 0 1-7-7",
  out: "M8 3H4v14h4M9 10h8M14 7l3 3-3 3",
  menu: "M3 5h14M3 10h14M3 15h14",
  close: "M5 5l10 10M15 5 5 15",
  fold: "M4 4h12v12H4zM8 4v12",
  copy: "M7 7h9v9H7zM4 13V4h9",
  plus: "M10 4v12M4 10h12",
  search: "M9 4a5 5 0 1 0 .01 0M13 13l4 4",
  check: "M4 10l4 4 8-9",
  warning: "M10 3 2.5 16.5h15zM10 8v4M10 14.5h.01",
};

/** A line drawing that says nothing a reader of the text would miss. */
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>`;

// --------------------------------------------------------------------------------------------------- statuses

/** status -> [glyph, word, tone]; the one place that says how a status looks. */
export const STATUSES = {
  PENDING: ["○", "Pending", "muted"],
  RUNNING: ["⟳", "Running", "accent"],
  COMPLETED: ["✓", "Completed", "green"],
  FAILED: ["✕", "Failed", "red"],
  CANCELLED: ["⊘", "Cancelled", "orange"],
  TIMED_OUT: ["⧖", "Timed out", "yellow"],
};

export const isOpen = (run) => run.status === "PENDING" || run.status === "RUNNING";

/** action -> label of its button, and whether it is there for a run; actions.js does them. */
export const ACTIONS = {
  signal: { label: "Signal", applies: isOpen },
  cancel: { label: "Cancel", applies: (run) => isOpen(run) && !run.cancel_requested_at },
  terminate: { label: "Terminate", applies: isOpen, danger: true },
  continue: { label: "New run", applies: (run) => !isOpen(run) },
};

/** Glyph, word and colour; `tone` is muted, accent, green, red, yellow or orange. */
export const Badge = ({ glyph, tone = "muted", children, ...rest }) => html`<span class="badge tone-${tone}" ...${rest}><span class="glyph" aria-hidden="true">${glyph}</span>${children}</span>`;

/** The badge of a status of a run or an activity. */
export function Status({ status }) {
  const [glyph, word, tone] = STATUSES[status] || ["?", status, "muted"];
  return html`<${Badge} glyph=${glyph} tone=${tone} data-status=${status}>${word}<//>`;
}

/** The status of a run, and beside it that it is being cancelled or that its workers fail. */
export const RunStatus = ({ run }) => html`<${Status} status=${run.status} />
  ${isOpen(run) && run.cancel_requested_at !== null && html` <${Badge} glyph="⊘" tone="orange">cancelling<//>`}
  ${isOpen(run) && run.task_error !== null && html` <${Badge} glyph="!" tone="red">task failing<//>`}`;

// ------------------------------------------------------------------------------------------------------- time

const tickers = new Set();
setInterval(() => {
  if (!document.hidden) for (const tick of [...tickers]) tick();
}, 1000);

/** Render again every second while the page is visible; gives now in epoch seconds. */
export function useTick(running = true) {
  const [, again] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    if (running) tickers.add(again);
    return () => tickers.delete(again);
  }, [running]);
  return Date.now() / 1000;
}

/** Text that is made anew every second and rendered when it changed. */
function Ticking({ make }) {
  const [text, setText] = useState(make());
  useEffect(() => {
    const tick = () => setText(make());
    tick();
    tickers.add(tick);
    return () => tickers.delete(tick);
  });
  return text;
}

const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
];

/** Seconds as people say them: 340 ms, 4.2 s, 3 min 10 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  const value = Math.max(0, Number(seconds));
  if (value < 10 && Number.isInteger(value)) return `${value} s`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.floor(value)} s`;
  const at = UNITS.findIndex(([size]) => value >= size);
  const [size, unit] = UNITS[at];
  const [smaller, smallUnit] = UNITS[at + 1] || [1, "s"];
  const rest = Math.floor((value % size) / smaller);
  return `${Math.floor(value / size)} ${unit}${rest ? ` ${rest} ${smallUnit}` : ""}`;
}

/** A point in time as people say it: 5 s ago, in 3 min. */
export function relative(at) {
  const past = Date.now() / 1000 - Number(at);
  const size = Math.abs(past);
  if (size < 1) return "just now";
  const whole = size < 60 ? `${Math.floor(size)} s` : duration(size).split(" ").slice(0, 2).join(" ");
  return past > 0 ? `${whole} ago` : `in ${whole}`;
}

/** Date and time in the reader's zone, to the millisecond. */
export function exact(at) {
  const date = new Date(Number(at) * 1000);
  const two = (number, width = 2) => String(number).padStart(width, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${two(date.getMilliseconds(), 3)}`;
}

/** A time (epoch seconds or null): relative and ticking with the exact one as tooltip, or with `full` the exact one. */
export function Time({ at, full = false }) {
  if (at === null || at === undefined) return html`<span class="none">–</span>`;
  const date = new Date(Number(at) * 1000);
  if (Number.isNaN(date.getTime())) return String(at);
  return html`<time datetime=${date.toISOString()} title=${exact(at)}>${full ? exact(at) : html`<${Ticking} make=${() => relative(at)} />`}</time>`;
}

/** The time between two points; `to` null: until now, ticking. */
export function Duration({ from, to }) {
  if (from === null || from === undefined) return html`<span class="none">–</span>`;
  if (to !== null && to !== undefined) return html`<span>${duration(to - from)}</span>`;
  return html`<span><${Ticking} make=${() => duration(Math.floor(Date.now() / 1000 - from))} /></span>`;
}

// --------------------------------------------------------------------------------------------------- controls

/** Copies `text`; says so for a moment. */
export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      copyWithoutClipboard(text); // no permission, or not a secure context
    }
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="button quiet small square" aria-label=${done ? "Copied" : label} title=${label} onClick=${copy}>
    <${Icon} name=${done ? "check" : "copy"} />
  </button>`;
}

function copyWithoutClipboard(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A table in a box that scrolls by itself; `scroll` names the box, so that Back restores its place. */
export const Table = ({ label, scroll, head, children, className = "" }) => html`
  <div class="table-box ${className}" data-scroll=${scroll} role="region" aria-label="${label} table" tabindex="0">
    <table>
      <thead><tr>${head.map((name) => (typeof name === "string" ? html`<th scope="col">${name}</th>` : name))}</tr></thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;

/** `1–50 of 1234` with Previous and Next; `page` counts from 1, `go(page)` turns it. */
export function Paging({ page, size, count, total, go }) {
  if (!total && page === 1) return null;
  const first = (page - 1) * size + 1;
  const text = count ? `${first}–${first + count - 1} of ${total}` : `none of ${total}`;
  return html`<nav class="paging" aria-label="Pages">
    <span data-testid="paging">${text}</span>
    <button type="button" class="button small" disabled=${page <= 1} onClick=${() => go(page - 1)}>Previous</button>
    <button type="button" class="button small" disabled=${page * size >= total} onClick=${() => go(page + 1)}>Next</button>
  </nav>`;
}

// --------------------------------------------------------------------------------------------------- messages

/** A request failed: the server's sentence and a way to try again. Nothing without an error. */
export const Failure = ({ error, retry }) =>
  error &&
  html`<div class="message failure" role="alert">
    <${Icon} name="warning" /><span>${error.message}</span>
    ${retry && html`<button type="button" class="button small" onClick=${retry}>Retry</button>`}
  </div>`;

/** A place with nothing in it, and what can be done. */
export const Empty = ({ title, children }) => html`<div class="empty"><p class="empty-title">${title}</p>${children}</div>`;

export const Loading = ({ what = "Loading" }) => html`<p class="loading" role="status">${what}…</p>`;

/** Shows its children, or a sentence when one of them failed to render; the rest of the page goes on. */
export function Guard({ name, children }) {
  const [error, reset] = useErrorBoundary((caught) => console.error(caught));
  if (!error) return children;
  return html`<div class="pad"><${Failure} error=${{ message: `${name} cannot be shown: ${error.message}` }} retry=${reset} /></div>`;
}

const modules = new Map();

function startLoading(load) {
  const entry = { module: undefined, error: undefined, watchers: new Set(), retry };
  function retry() {
    entry.error = undefined;
    load()
      .then((module) => (entry.module = module))
      .catch((error) => (entry.error = { message: `This part did not load: ${error.message}` }))
      .then(() => entry.watchers.forEach((watcher) => watcher()));
  }
  retry();
  return entry;
}

/** The module that `load` imports, once it is there; {module, error, retry}. `name` keys it. */
export function useModule(name, load) {
  if (!modules.has(name)) modules.set(name, startLoading(load));
  return useWatched(modules.get(name));
}

// ----------------------------------------------------------------------------------------------------- toasts

const TOAST_MS = 5000;
const toasts = { list: [], watchers: new Set(), last: 0 };

function setToasts(list) {
  toasts.list = list;
  for (const watcher of toasts.watchers) watcher();
}

const dismiss = (id) => setToasts(toasts.list.filter((toast) => toast.id !== id));

/** Tell what was done: toast("Cancel requested", {href, link: "Open", tone: "red"}). */
export function toast(message, { href, link, tone = "green" } = {}) {
  toasts.last += 1;
  setToasts([...toasts.list, { id: toasts.last, message, href, link, tone }]);
}

function Toast({ toast: { id, message, href, link, tone } }) {
  const left = useRef(TOAST_MS);
  const timer = useRef(null);
  const pause = () => {
    if (timer.current === null) return;
    clearTimeout(timer.current.id);
    left.current -= performance.now() - timer.current.since;
    timer.current = null;
  };
  const run = () => {
    timer.current ||= { id: setTimeout(() => dismiss(id), left.current), since: performance.now() };
  };
  useEffect(() => {
    run();
    return pause;
  }, []);
  return html`<div class="toast tone-${tone}" data-testid="toast" onMouseEnter=${pause} onMouseLeave=${run} onFocusIn=${pause} onFocusOut=${run}>
    <span>${message}</span>${href && html`<a href=${href}>${link}</a>`}
    <button type="button" class="button quiet small square" aria-label="Dismiss" onClick=${() => dismiss(id)}><${Icon} name="close" /></button>
  </div>`;
}

export function Toasts() {
  const { list } = useWatched(toasts);
  return html`<div class="toasts" role="status" aria-live="polite" aria-relevant="additions">
    ${list.map((item) => html`<${Toast} key=${item.id} toast=${item} />`)}
  </div>`;
}

// ----------------------------------------------------------------------------------------------------- drafts

const drafts = new Map();

/** In a dialog: the name of what is typed there. */
const DraftName = createContext(null);

/**
 * What is typed and not sent yet: {values, last} by field, `last` being the field typed in. It lives as long as what
 * shows it, and outlives a sign-in in between. `name` tells the forms of a page apart; in a dialog it is not needed.
 */
export function useDraft(name) {
  const key = useContext(DraftName) ?? name;
  const [draft] = useState(() => {
    const kept = drafts.get(key);
    drafts.delete(key);
    return kept || { values: null, last: null };
  });
  useEffect(() => () => currentRoute().view === "login" && draft.values && drafts.set(key, draft), []);
  return draft;
}

// ---------------------------------------------------------------------------------------------------- dialogs

const dialogs = { list: [], watchers: new Set(), last: 0 };

function setDialogs(list) {
  dialogs.list = list;
  for (const watcher of dialogs.watchers) watcher();
}

/**
 * Show `component` with `props` and `close` until it calls close(value); gives a promise of that value. The dialog
 * stands beside the views, so no update of a view disturbs it; afterwards the focus is where it was.
 */
export function openDialog(component, props = {}) {
  const before = document.activeElement;
  dialogs.last += 1;
  const id = dialogs.last;
  return new Promise((resolve) => {
    const close = (value) => {
      setDialogs(dialogs.list.filter((dialog) => dialog.id !== id));
      setTimeout(() => (before?.isConnected ? before : document.querySelector("main h1"))?.focus());
      resolve(value);
    };
    setDialogs([...dialogs.list, { id, component, props: { ...props, close } }]);
  });
}

export function Dialogs() {
  const { list } = useWatched(dialogs);
  return list.map(({ id, component, props }) => html`<${DraftName.Provider} key=${id} value=${`dialog ${id}`}><${component} ...${props} /><//>`);
}
