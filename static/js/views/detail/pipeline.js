// What the value of a run's query `pipeline_state` means to the Steps tab: steps, connectors, log and actions.
// Pure functions; any value is fine, also one that only resembles the convention.

/** status -> [glyph, tone]; an unknown status looks like `waiting`. */
const LOOKS = {
  waiting: ["○", "muted"],
  running: ["⟳", "accent"],
  done: ["✓", "green"],
  failed: ["✕", "red"],
  cancelled: ["⊘", "orange"],
  skipped: ["·", "faint"],
};

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && Object.getPrototypeOf(value) === Object.prototype;
const listOf = (value) => (Array.isArray(value) ? value : []);
const textOf = (value) => (value === null || value === undefined ? "" : typeof value === "object" && isObject(value) ? JSON.stringify(value) : String(value));

/** Whether a value has the shape that gets a Steps tab: an object with at least one entry in `steps`. */
export const isPipeline = (value) => isObject(value) && Array.isArray(value.steps) && value.steps.length > 0;

function stepOf(entry, index, current) {
  const text = textOf(entry.status);
  const status = Object.hasOwn(LOOKS, text.toLowerCase()) ? text.toLowerCase() : "waiting";
  const [glyph, tone] = LOOKS[status];
  return {
    index,
    name: textOf(entry.name) || `Step ${index}`,
    status,
    text: text || "waiting",
    glyph,
    tone,
    current: index === current,
    started: entry.started_at,
    completed: entry.completed_at,
    actions: listOf(entry.actions).filter((action) => typeof action === "string" && action !== ""),
  };
}

/** The steps in order; `index` counts from 1 as the author does, entries that are not objects are left out. */
export function stepsOf(pipeline) {
  const current = Number(pipeline.current_step);
  return listOf(pipeline.steps).flatMap((entry, at) => (isObject(entry) ? [stepOf(entry, at + 1, current)] : []));
}

const ENDED = new Set(["done", "failed", "cancelled"]);

/** How far the line between two steps is drawn: `muted`, `half` or `full`. */
export function fillBetween(before, after) {
  if (after.status === "skipped" || before.status !== "done") return "muted";
  return ENDED.has(after.status) ? "full" : "half";
}

/** The lines of the log: {time, text, step}; `step` is null for a line that belongs to no step. */
export function logOf(pipeline) {
  return listOf(pipeline.log)
    .filter(isObject)
    .map((line) => ({ time: textOf(line.time), text: textOf(line.msg), step: line.step === null || line.step === undefined ? null : Number(line.step) }));
}
