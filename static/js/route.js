// Addresses: the settings block of the page, and the way between URLs and routes.
//
// A route is {view, ns, id, tab, params, path, full}. `ns` is null where the address names none (the frame then takes
// the namespace last used in this tab, else the default one), `id` is the selected run, `params` holds the query, `full`
// tells whether the namespace is part of the path.
// Everything starts with one prefix, so the dashboard works at / and behind a gateway at /tools/assay.

export const config = JSON.parse(document.getElementById("config").textContent);
export const home = `${config.prefix}/workflow/`;
export const api = `${config.prefix}/api/v1/engine/workflow`;

const LISTS = ["workflows", "schedules", "workers", "queues"];
const PLAIN = ["settings", "login"];

function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment; // malformed percent-encoding: take it as it stands
  }
}

/** The names and values of a query string; malformed ones are kept as text, of repeated names the last one counts. */
export function readQuery(search) {
  const params = {};
  for (const part of search.replace(/^\?/, "").split("&")) {
    const [name, ...rest] = part.split("=");
    if (name) params[decode(name.replaceAll("+", " "))] = decode(rest.join("=").replaceAll("+", " "));
  }
  return params;
}

/** A query string with its question mark, without members that are empty, null or undefined. */
export function query(params) {
  const parts = Object.entries(params)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  return parts.length ? `?${parts.join("&")}` : "";
}

/** Read an address; never fails. An unknown path gives the view "missing". */
export function parse(pathname, search) {
  const params = readQuery(search);
  const route = { view: "missing", ns: params.ns || null, full: false, id: null, tab: params.tab || null, params, path: pathname + search };
  const rest = `${pathname}/`.startsWith(home) ? pathname.slice(home.length).replace(/\/$/, "") : null;
  if (rest === null) return route;
  const [first, second, third, fourth, ...more] = rest.split("/");
  if (!rest) return { ...route, view: "workflows" };
  if (second === undefined) {
    if (PLAIN.includes(first)) return { ...route, view: first };
    return LISTS.includes(first) ? { ...route, view: first } : route;
  }
  if (first !== "ns" || !second || more.length) return route;
  const ns = decode(second);
  if (third === undefined) return { ...route, view: "workflows", ns, full: true };
  if (!LISTS.includes(third) || (fourth !== undefined && third !== "workflows")) return { ...route, ns };
  return { ...route, view: third, ns, full: true, id: fourth ? decode(fourth) : null };
}

/** The address of a view: href("workflows", {ns, id, tab, status, ...}); further members become the query. */
export function href(view, { ns, id, ...params } = {}) {
  if (view === "settings") return `${home}settings${query({ ns, ...params })}`;
  if (view === "login") return `${home}login${query(params)}`;
  const run = id ? `/${encodeURIComponent(id)}` : "";
  return `${home}ns/${encodeURIComponent(ns)}/${view}${run}${query(params)}`;
}

/** `next` of the login, if it leads into this dashboard on this host, else its first page. */
export function safeNext(next) {
  if (!next?.startsWith(home)) return home;
  const url = new URL(next, location.origin); // resolves what leads out again
  const inside = url.origin === location.origin && url.pathname.startsWith(home) && parse(url.pathname, "").view !== "login";
  return inside ? url.pathname + url.search : home;
}

// ---------------------------------------------------------------------------------------- the current route

let current = parse(location.pathname, location.search);
const watchers = new Set();

function changed() {
  current = parse(location.pathname, location.search);
  for (const watcher of [...watchers]) watcher(current);
}

/** The route of the address bar. */
export const currentRoute = () => current;

/** Call `watcher(route)` after every change of the address; returns the function that ends it. */
export function watchRoute(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

/** Go to an address of href(). `replace` keeps the number of history entries, for filters that are being typed. */
export function go(address, { replace = false } = {}) {
  if (address === location.pathname + location.search) return;
  if (!replace) keepScroll();
  history[replace ? "replaceState" : "pushState"](replace ? history.state : {}, "", address);
  changed();
}

/** Go to the current view with some of its query (and perhaps `id` and `tab`) changed. */
export function goWith(changes, options) {
  const { view, ns, id, params } = current;
  go(href(view, { ...params, ns, id, ...changes }), options);
}

/** The address of a run, or with null of the list alone, with the filters that are set now. */
export const runHref = (ns, id) => href("workflows", { ...current.params, ns, id, tab: null });

// ------------------------------------------------------------------- scroll positions, kept with the history entry

function positions() {
  const kept = { window: [scrollX, scrollY] };
  for (const box of document.querySelectorAll("[data-scroll]")) kept[box.dataset.scroll] = [box.scrollLeft, box.scrollTop];
  return kept;
}

function keepScroll() {
  history.replaceState({ ...history.state, scroll: positions() }, "");
}

// Content comes with the data, so the place is looked for until it exists, the reader scrolls, or 10 s are over.
function restoreScroll(wanted) {
  const until = performance.now() + 10000;
  let stopped = false;
  const stop = () => (stopped = true);
  for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(kind, stop, { once: true, passive: true });
  const step = () => {
    if (stopped || performance.now() > until) return;
    let missing = false;
    for (const [name, [left, top]] of Object.entries(wanted)) {
      const box = name === "window" ? document.scrollingElement : document.querySelector(`[data-scroll="${CSS.escape(name)}"]`);
      if (box) box.scrollTo(left, top);
      if (!box || Math.abs(box.scrollTop - top) > 2) missing = true;
    }
    if (missing) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

history.scrollRestoration = "manual";
addEventListener("popstate", (event) => {
  changed();
  if (event.state?.scroll) restoreScroll(event.state.scroll);
});
addEventListener("pagehide", keepScroll);
if (history.state?.scroll) restoreScroll(history.state.scroll);

let saving = 0;
addEventListener(
  "scroll",
  () => {
    clearTimeout(saving);
    saving = setTimeout(keepScroll, 150);
  },
  { capture: true, passive: true },
);

// Plain clicks on links of the dashboard do not load the page again.
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  if (!link.pathname.startsWith(home) || link.pathname.startsWith(`${home}static/`) || link.hash) return;
  event.preventDefault();
  go(link.pathname + link.search);
});
