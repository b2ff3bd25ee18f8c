// The history of a run as the panel reads it: only what is new is fetched, and what belongs together is found.

import { useEffect, useRef, useState } from "../../../vendor/htm/preact-standalone.js";
import { ApiError, path, request } from "../../data.js";

const PAGE = 200;
const BULK = 10000;

async function page(ns, id, params) {
  return (await request(path(["workflows", id, "events"], { namespace: ns, ...params }))).data;
}

function merged(old, more) {
  const bySeq = new Map([...old, ...more].map((event) => [event.seq, event]));
  return [...bySeq.values()].sort((a, b) => a.seq - b.seq);
}

/**
 * The events of a run, ascending and without a gap: the newest 200 and, with `older()`, more; or all of them. New ones
 * are added as the run's `history_length` grows. Gives {events (null before the first answer), error, retry, older}.
 */
export function useHistory(ns, run, all = false) {
  const [events, setEvents] = useState(null);
  const [error, setError] = useState(null);
  const [tries, setTries] = useState(0);
  const busy = useRef(false);
  const load = async (params) => {
    if (busy.current) return;
    busy.current = true;
    try {
      const more = await page(ns, run.id, params);
      setEvents((old) => merged(old || [], more));
      setError(null);
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem;
      setError(problem);
    } finally {
      busy.current = false;
    }
  };
  const oldest = events?.[0]?.seq ?? 1;
  const newest = events?.at(-1)?.seq ?? 0;
  useEffect(() => {
    if (events === null) load(all ? { limit: BULK } : { limit: PAGE, order: "desc" });
    else if (newest < run.history_length) load({ after_seq: newest, limit: BULK });
  }, [run.history_length, newest, events === null, tries]);
  const before = Math.max(0, oldest - 1 - PAGE);
  return {
    events,
    error,
    retry: () => setTries(tries + 1),
    older: oldest > 1 ? () => load({ after_seq: before, limit: oldest - 1 - before }) : null,
  };
}

/** Every event of a run, for a file. */
export async function wholeHistory(ns, id) {
  const events = [];
  for (;;) {
    const more = await page(ns, id, { after_seq: events.at(-1)?.seq ?? 0, limit: BULK });
    events.push(...more);
    if (more.length < BULK) return events;
  }
}

// --------------------------------------------------------------------------------------------- what belongs together

const ENDS = {
  ActivityCompleted: "done",
  ActivityFailed: "failed",
  TimerFired: "done",
  TimerCancelled: "cancelled",
  ChildWorkflowCompleted: "done",
  ChildWorkflowFailed: "failed",
};

/** The thing that an event is about, or null: events of one thing have the same key. */
function thingOf({ event_type: type, payload }) {
  if (type.startsWith("Activity")) return `activity ${payload.activity_seq}`;
  if (type.startsWith("Timer")) return `timer ${payload.timer_seq}`;
  if (type.startsWith("ChildWorkflow")) return `child ${payload.child_workflow_id}`;
  return null;
}

const NAMES = {
  activity: (payload) => payload.name,
  timer: (payload) => `timer ${payload.timer_seq}`,
  child: (payload) => payload.child_workflow_id,
};

function opened(key, event) {
  const kind = key.split(" ")[0];
  return { key, kind, name: NAMES[kind](event.payload), events: [event], from: Number(event.timestamp), to: null, outcome: "open", attempts: 1 };
}

function ended(item, event) {
  Object.assign(item, { to: Number(event.timestamp), outcome: ENDS[event.event_type] });
  if (event.payload.attempts) item.attempts = Number(event.payload.attempts);
}

/** A wait ends with the next signal of its name, or with its timer. */
function endWaits(waits, event) {
  const { event_type: type, payload } = event;
  const fits = (item) => (type === "SignalReceived" ? item.name === payload.signal : type === "TimerFired" && item.timer !== null && item.timer === payload.timer_seq);
  const at = waits.findIndex(fits);
  if (at < 0) return;
  const [item] = waits.splice(at, 1);
  Object.assign(item, { to: Number(event.timestamp), outcome: type === "SignalReceived" ? "done" : "timed out" });
}

/**
 * The activities, timers, children and waits of a history in the order of their beginning:
 * {key, kind, name, events, from, to (null while open), outcome, attempts}. `closedAt` ends what was open then.
 */
export function thingsOf(events, closedAt = null) {
  const things = new Map();
  const waits = [];
  for (const event of events) {
    endWaits(waits, event);
    if (event.event_type === "WorkflowAwaitingSignal") {
      const wait = { key: `wait ${event.payload.wait_seq}`, kind: "wait", name: event.payload.signal, timer: event.payload.timer_seq, events: [event], from: Number(event.timestamp), to: null, outcome: "open", attempts: 1 };
      things.set(wait.key, wait);
      waits.push(wait);
    }
    const key = thingOf(event);
    if (key === null) continue;
    const known = things.get(key);
    if (known) known.events.push(event);
    else things.set(key, opened(key, event));
    if (Object.hasOwn(ENDS, event.event_type)) ended(things.get(key), event);
  }
  const list = [...things.values()];
  if (closedAt !== null) for (const item of list.filter((each) => each.to === null)) Object.assign(item, { to: Number(closedAt), outcome: "cancelled" });
  return list;
}

/** Rows of the compact list: what belongs together is one row at its first event, `{seq, events, type, thing}`. */
export function folded(events) {
  const rows = [];
  const byThing = new Map();
  for (const event of events) {
    const key = thingOf(event);
    const row = key !== null && byThing.get(key);
    if (row) row.events.push(event);
    else {
      const fresh = { seq: event.seq, events: [event] };
      rows.push(fresh);
      if (key !== null) byThing.set(key, fresh);
    }
  }
  return rows;
}

/** What an event is about in a word or two, for the list. */
export function aboutEvent({ event_type: type, payload }) {
  if (payload === null || typeof payload !== "object" || type === "WorkflowStarted" || type === "WorkflowCompleted") return "";
  return String(payload.name ?? payload.signal ?? payload.child_workflow_id ?? payload.new_workflow_id ?? payload.error ?? payload.reason ?? (payload.duration_secs === undefined ? "" : `${payload.duration_secs} s`));
}
