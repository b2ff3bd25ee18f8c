// Cron expressions in plain English and their next times, as the scheduler itself computes them.

import { useEffect, useState } from "../vendor/htm/preact-standalone.js";
import { ApiError, request } from "./data.js";

const TYPING_MS = 300;

/** Ask the scheduler: {description, next_runs (epoch seconds)}. Throws ApiError. */
export const previewCron = async (cron, timezone) =>
  (await request("/schedules/preview", { method: "POST", body: { cron_expr: cron, timezone: timezone || "UTC", count: 5 } })).data;

const readings = new Map();
let last = Promise.resolve();

/** The plain-English reading of a stored expression; null until it is known. Asked once, one request at a time. */
export function useReading(cron, timezone) {
  const key = `${cron}\n${timezone}`;
  const [, setText] = useState(null);
  useEffect(() => {
    let here = true;
    if (!readings.has(key)) {
      readings.set(key, null);
      last = last.then(() => previewCron(cron, timezone)).then(({ description }) => readings.set(key, description), () => readings.delete(key));
    }
    last.then(() => here && setText(readings.get(key)));
    return () => (here = false);
  }, [key]);
  return readings.get(key) ?? null;
}

/** What the expression in a form means: {preview, error}, asked a moment after the last key. */
export function usePreview(cron, timezone) {
  const [found, setFound] = useState({});
  const fields = cron.trim().split(/\s+/).length;
  const askable = cron.trim() !== "" && (fields === 6 || fields === 7);
  useEffect(() => {
    if (!askable) {
      setFound({});
      return undefined;
    }
    let here = true;
    const ask = async () => {
      try {
        const preview = await previewCron(cron.trim(), timezone.trim());
        if (here) setFound({ preview });
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (here) setFound({ error });
      }
    };
    const timer = setTimeout(ask, TYPING_MS);
    return () => {
      here = false;
      clearTimeout(timer);
    };
  }, [cron, timezone, askable]);
  return found;
}
