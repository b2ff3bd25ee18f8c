// Data: requests to the API, and a cache of what they brought, keyed by URL.
//
// A component asks with useQuery(path, {topics}). All who ask for the same path share one entry. Events mark entries
// dirty by topic; what is dirty and on screen is fetched again, at once for the first change, then at most once per
// 500 ms, never twice at a time, and not while the browser tab is hidden. Equal answers change nothing on the page.

import { useLayoutEffect, useReducer, useRef } from "../vendor/htm/preact-standalone.js";
import { api, config, go, href, query, currentRoute } from "./route.js";

const THROTTLE_MS = 500;
const KEPT_ENTRIES = 60;

// ---------------------------------------------------------------------------------------------------- JSON

/** A number whose text JavaScript would not give back (1.0, 9223372036854775807); counts like a number. */
export class ExactNumber extends Number {
  constructor(value, text) {
    super(value);
    this.text = text;
  }

  toString() {
    return this.text;
  }
}

/** JSON text that goes into a request as it stands. */
export class RawJson {
  constructor(text) {
    this.text = text;
  }
}

/** Parse JSON so that every number keeps its text. */
export function fromJson(text) {
  return JSON.parse(text, (_key, value, context) => {
    if (typeof value !== "number" || !context || String(value) === context.source) return value;
    return new ExactNumber(value, context.source);
  });
}

/** JSON text of a value; `indent` spaces per level, or one line. Numbers and RawJson keep their text. */
export function toJson(value, indent = 0, level = 0) {
  if (value instanceof RawJson || value instanceof ExactNumber) return value.text;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const list = Array.isArray(value);
  const colon = indent ? ": " : ":";
  const parts = list
    ? value.map((item) => toJson(item, indent, level + 1))
    : Object.entries(value)
        .filter(([, item]) => item !== undefined)
        .map(([key, item]) => JSON.stringify(key) + colon + toJson(item, indent, level + 1));
  if (!parts.length) return list ? "[]" : "{}";
  const [open, close] = list ? "[]" : "{}";
  if (!indent) return open + parts.join(",") + close;
  const pad = "\n" + " ".repeat(indent * (level + 1));
  return open + pad + parts.join("," + pad) + "\n" + " ".repeat(indent * level) + close;
}

// ------------------------------------------------------------------------------------------------ requests

/** A request that did not succeed: `status` (0 without an answer), `code`, `message` and `fields` of the server. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body.error || `The engine answered with status ${status}.`);
    this.status = status;
    this.code = body.code || "";
    this.fields = body.fields || {};
    this.body = body;
  }
}

export const session = { principal: null, csrf: null, expiresAt: null };

/** Take over what the session endpoint said about the caller. */
export function adopt({ principal, csrf_token: csrf, expires_at: expiresAt }) {
  Object.assign(session, { principal, csrf, expiresAt });
}

/** Whether the last request was answered at all; live.js shows it. */
export const network = { reachable: true, watchers: new Set() };

function reached(reachable) {
  if (network.reachable === reachable) return;
  network.reachable = reachable;
  for (const watcher of network.watchers) watcher();
}

/** Leave for the login page, which leads back to where we are. */
export function toLogin() {
  if (config.authMode === "open" || currentRoute().view === "login") return;
  adopt({ principal: null, csrf_token: null, expires_at: null });
  entries.clear();
  go(href("login", { next: location.pathname + location.search }), { replace: true });
}

/** Whether the answer says that our CSRF token is not that of the session (any more), and a new one was to be had. */
async function renewCsrf(data) {
  if (data?.code !== "csrf_failed") return false;
  const { csrf } = session;
  adopt((await request("/session")).data);
  return session.csrf !== csrf;
}

/**
 * Send a request. `path` is relative to the API, `body` a plain object (with RawJson for typed-in JSON).
 * Gives {data, text, total}; throws ApiError. A 401 leads to the login page.
 */
export async function request(path, options = {}) {
  const { method = "GET", body, headers = {} } = options;
  const sent = { Accept: "application/json", "X-Requested-With": "assay", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (method !== "GET" && session.csrf) sent["X-CSRF-Token"] = session.csrf;
  let answer, text;
  try {
    answer = await fetch(api + path, { method, headers: sent, body: body === undefined ? undefined : toJson(body), cache: "no-store" });
    text = await answer.text();
  } catch {
    reached(false);
    throw new ApiError(0, { error: "The engine does not answer. Check that it runs and that you are online.", code: "unreachable" });
  }
  reached(answer.status !== 502 && answer.status !== 504);
  let data = null;
  try {
    data = text ? fromJson(text) : null;
  } catch {
    data = { error: `The answer with status ${answer.status} is not JSON.` }; // from something between us and the engine
  }
  if (answer.ok) return { data, text, total: Number(answer.headers.get("X-Total-Count") ?? NaN) };
  if (answer.status === 403 && (await renewCsrf(data))) return request(path, options);
  if (answer.status === 401 && !headers.Authorization) toLogin();
  throw new ApiError(answer.status, data && typeof data === "object" ? data : {});
}

/** A path of the API; every segment is encoded on its own: path(["workflows", id, "events"], {limit: 200}). */
export function path(segments, params = {}) {
  return segments.map((segment) => `/${encodeURIComponent(segment)}`).join("") + query(params);
}

/** A request that changes something; afterwards `topics` are dirty. Throws ApiError. */
export async function change(method, address, body, topics = []) {
  try {
    return (await request(address, { method, body })).data;
  } finally {
    markDirty(...topics);
  }
}

// --------------------------------------------------------------------------------------------------- cache

const entries = new Map();

function entryOf(key) {
  let entry = entries.get(key);
  if (!entry) {
    entry = { key, data: undefined, text: null, total: NaN, error: null, dirty: true, loading: false, lastStart: -1e9, timer: 0, readers: new Set(), version: 0 };
    entries.set(key, entry);
    forgetOld();
  }
  return entry;
}

function forgetOld() {
  for (const [key, entry] of entries) {
    if (entries.size <= KEPT_ENTRIES) return;
    if (!entry.readers.size && !entry.loading) entries.delete(key);
  }
}

function tell(entry) {
  entry.version += 1;
  for (const reader of [...entry.readers]) reader.notify();
}

function schedule(entry) {
  if (!entry.dirty || entry.loading || entry.timer || !entry.readers.size || document.hidden) return;
  const wait = entry.lastStart + THROTTLE_MS - performance.now();
  if (wait <= 0) load(entry);
  else
    entry.timer = setTimeout(() => {
      entry.timer = 0;
      schedule(entry);
    }, wait);
}

async function load(entry) {
  Object.assign(entry, { dirty: false, loading: true, lastStart: performance.now() });
  const before = entry.error;
  try {
    const { data, text, total } = await request(entry.key);
    const same = entry.text === text && Object.is(entry.total, total);
    Object.assign(entry, { loading: false, error: null, total, text, data: same ? entry.data : data });
    if (!same || before) tell(entry);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    Object.assign(entry, { loading: false, error });
    tell(entry);
  }
  schedule(entry);
}

/** Mark entries dirty of which a reader named one of these topics. */
export function markDirty(...topics) {
  for (const entry of entries.values()) {
    const hit = !entry.readers.size || [...entry.readers].some((reader) => reader.topics.some((topic) => topics.includes(topic)));
    if (hit) refresh(entry);
  }
}

/** Mark everything dirty: after a gap in the stream of events. */
export function markAllDirty() {
  for (const entry of entries.values()) refresh(entry);
}

function refresh(entry) {
  entry.dirty = true;
  schedule(entry);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const entry of entries.values()) schedule(entry);
});

/**
 * What GET `key` answers, kept fresh while the component is on screen; `key` null asks for nothing.
 *
 * `topics`: what makes it dirty (see live.js). `every`: also ask again after so many ms. `keep`: while a new key loads,
 * go on showing the data of the old one (`stale` is true then). Gives {data, total, error, loading, stale, retry};
 * `data` is undefined until the first answer, and stays when a later request fails.
 */
export function useQuery(key, { topics = [], every = 0, keep = false } = {}) {
  const [, notify] = useReducer((count) => count + 1, 0);
  const reader = useRef(null);
  reader.current ||= { notify, topics };
  reader.current.topics = topics;
  const shown = useRef(null);
  const entry = key === null ? null : entryOf(key);
  const version = entry?.version;
  useLayoutEffect(() => {
    if (!entry) return undefined;
    entries.set(key, entry);
    entry.readers.add(reader.current);
    schedule(entry);
    if (entry.version !== version) notify();
    return () => entry.readers.delete(reader.current);
  }, [entry]);
  useLayoutEffect(() => {
    if (!entry || !every) return undefined;
    const timer = setInterval(() => refresh(entry), every);
    return () => clearInterval(timer);
  }, [entry, every]);
  if (!entry) return { data: undefined, total: NaN, error: null, loading: false, stale: false, retry() {} };
  if (entry.data !== undefined || !keep) shown.current = entry;
  const source = entry.data === undefined && keep && shown.current ? shown.current : entry;
  return {
    data: source.data,
    total: source.total,
    error: entry.error,
    loading: entry.data === undefined && !entry.error,
    stale: source !== entry,
    retry: () => refresh(entry),
  };
}
