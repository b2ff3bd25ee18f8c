// Live updates: one stream of events per browser and namespace, shared by its tabs; events only mark data dirty.
//
// The tab that holds a lock opens the stream and passes everything on over a BroadcastChannel; when it goes, another
// one takes over. Pages that are not served from a secure context have no Web Locks and use a lease in localStorage.
// Without a stream for 5 s, what is on screen is fetched every 5 s.
//
// Topics: list, run:<id>, schedules, workers, queues, tasks (counts that move with every task), namespaces.

import { api, config, query } from "./route.js";
import { markAllDirty, markDirty, network } from "./data.js";

const LONGEST_RETRY_MS = 30000;
const POLL_MS = 5000;
const LEASE_MS = 10000;

/** Live, Reconnecting or Offline. */
export const connection = { state: "Reconnecting", watchers: new Set() };

let close = () => {};
let open = false;
let lostAt = performance.now();

function show() {
  const state = open ? "Live" : network.reachable && navigator.onLine ? "Reconnecting" : "Offline";
  if (state === connection.state) return;
  connection.state = state;
  for (const watcher of connection.watchers) watcher();
}

function setOpen(value) {
  if (open && !value) lostAt = performance.now();
  if (value && !open) markAllDirty(); // what happened until now was not told
  open = value;
  show();
}

/** Which topics an event makes dirty. */
export function topicsOf({ event_type: type, workflow_id: id }) {
  if (type === "resync") return null;
  if (type.startsWith("schedule_")) return ["schedules"];
  if (type.startsWith("worker_")) return ["workers", "queues", "tasks"];
  if (type.startsWith("namespace_")) return ["namespaces"];
  const topics = [`run:${id}`];
  if (type.startsWith("workflow_")) topics.push("list", "queues", "tasks");
  else if (type.startsWith("activity_")) topics.push("queues", "tasks");
  else if (type === "search_attributes_updated") topics.push("list");
  else topics.push("tasks");
  return topics;
}

function received(event) {
  const topics = topicsOf(event);
  if (topics === null) markAllDirty();
  else markDirty(...topics);
}

/** News of the stream: an event, or that it is open or lost. `anew`: a tab that led before us may have gone silently. */
function heard({ event, open: isOpen, anew }) {
  if (event) received(event);
  if (anew && open) markAllDirty();
  if (isOpen !== undefined) setOpen(isOpen);
}

const TYPES = `workflow_started workflow_running workflow_completed workflow_failed workflow_cancelled workflow_terminated
  workflow_timed_out workflow_continued workflow_cancel_requested workflow_task_failed workflow_archived signal_received
  timer_fired state_updated search_attributes_updated activity_scheduled activity_started activity_retrying
  activity_completed activity_failed activity_cancelled schedule_created schedule_updated schedule_paused
  schedule_resumed schedule_deleted schedule_fired schedule_skipped worker_registered worker_lost worker_deregistered
  namespace_created namespace_deleted resync`.split(/\s+/);

/** Open the stream and keep it open until the returned function is called; `tell` hears of everything. */
function stream(ns, tell) {
  let source, timer, ended = false, failures = 0;
  const connect = () => {
    source = new EventSource(api + "/events/stream" + query({ namespace: ns }));
    source.onopen = () => {
      failures = 0;
      tell({ open: true, anew: true });
    };
    source.onerror = () => {
      source.close();
      if (ended) return;
      tell({ open: false });
      const wait = Math.min(LONGEST_RETRY_MS, 1000 * 2 ** failures++);
      timer = setTimeout(connect, wait * (0.75 + Math.random() / 4));
    };
    for (const type of TYPES) source.addEventListener(type, (message) => tell({ event: JSON.parse(message.data) }));
  };
  connect();
  return () => {
    ended = true;
    clearTimeout(timer);
    source.close();
  };
}

/** Call `lead()` in one tab of the browser; it returns what to call when leading ends. Returns the way out. */
function inOneTab(name, lead) {
  let stop = () => {};
  if (navigator.locks) {
    const abort = new AbortController();
    let release = () => {};
    const held = () => {
      stop = lead();
      return new Promise((resolve) => (release = resolve));
    };
    navigator.locks.request(name, { signal: abort.signal }, held).catch((error) => {
      if (error.name !== "AbortError") throw error;
    });
    return () => {
      abort.abort();
      stop();
      release();
    };
  }
  const me = crypto.getRandomValues(new Uint32Array(2)).join("-");
  let leading = false;
  const look = () => {
    const [owner, until] = (localStorage.getItem(name) || "").split(" ");
    if (owner !== me && Number(until) > Date.now()) {
      if (leading) stop();
      leading = false;
      return;
    }
    localStorage.setItem(name, `${me} ${Date.now() + LEASE_MS}`);
    if (owner === me && !leading) stop = lead(); // it is still ours a look later, so nobody else took it
    leading ||= owner === me;
  };
  const timer = setInterval(look, 1000);
  look();
  return () => {
    clearInterval(timer);
    if (leading) {
      stop();
      localStorage.removeItem(name);
    }
  };
}

/** Follow the events of a namespace; a former one is left. */
export function follow(ns) {
  close();
  setOpen(false);
  const name = `assay:stream:${config.prefix}:${ns}`;
  const channel = new BroadcastChannel(name);
  let leading = false;
  let isOpen = false;
  channel.onmessage = ({ data }) => {
    if (data.ask && leading) channel.postMessage({ open: isOpen });
    if (!leading) heard(data);
  };
  const leave = inOneTab(name, () => {
    leading = true;
    const end = stream(ns, (news) => {
      isOpen = news.open ?? isOpen;
      channel.postMessage(news);
      heard(news);
    });
    return () => {
      leading = false;
      channel.postMessage({ open: false });
      end();
    };
  });
  channel.postMessage({ ask: true });
  close = () => {
    leave();
    channel.close();
    close = () => {};
  };
}

let followed = null;

/** Follow `ns`, or nothing with null; calling it again with the same one changes nothing. */
export function followNamespace(ns) {
  if (ns === followed) return;
  followed = ns;
  if (ns === null) close();
  else follow(ns);
}

addEventListener("pagehide", () => close());
addEventListener("pageshow", (event) => {
  if (event.persisted && followed !== null) follow(followed);
});
addEventListener("online", show);
addEventListener("offline", show);
network.watchers.add(show);
setInterval(() => {
  if (followed !== null && !open && performance.now() - lostAt >= POLL_MS) markAllDirty();
}, POLL_MS);
