// Keyboard: j and k move through rows, Enter opens, / searches, ? shows this list, g then a letter changes the view.

import { html } from "../vendor/htm/preact-standalone.js";
import { Dialog } from "./forms.js";
import { config, currentRoute, go, href } from "./route.js";
import { openDialog, recall } from "./ui.js";

const GOTO = { w: "workflows", s: "schedules", o: "workers", q: "queues", e: "settings" };
const HELP = [
  ["j", "next row"],
  ["k", "previous row"],
  ["Enter", "open the row"],
  ["/", "search"],
  ["Escape", "close the panel or the dialog"],
  ["g w", "workflows"],
  ["g s", "schedules"],
  ["g o", "workers"],
  ["g q", "queues"],
  ["g e", "settings"],
  ["?", "this list"],
];
const PREFIX_MS = 1500;

let prefixAt = -Infinity;

const Help = ({ close }) => html`<${Dialog} title="Keyboard" close=${close}>
  <dl class="keys">${HELP.map(([key, text]) => html`<div key=${key}><dt>${key.split(" ").map((part) => html`<kbd>${part}</kbd>`)}</dt><dd>${text}</dd></div>`)}</dl>
<//>`;

function move(step) {
  const part = document.activeElement.closest(".panel, .list") || document.querySelector("main .list");
  const rows = [...(part?.querySelectorAll("tbody tr[data-row]") || [])];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const row = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step))];
  const target = row.querySelector("a[href], button") || row;
  target.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function search() {
  const field = document.querySelector("main input[type=search]");
  field?.focus();
  field?.select();
  return field;
}

/** Handle a key; keys in fields and dialogs and with Ctrl, Alt or Meta are left alone. */
export function pressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector("dialog[open]") || target.closest?.("input, textarea, select, [contenteditable]")) return;
  const route = currentRoute();
  const after = performance.now() - prefixAt < PREFIX_MS;
  prefixAt = -Infinity;
  if (after && GOTO[key]) go(href(GOTO[key], { ns: route.ns || recall("namespace", "sessionStorage") || config.defaultNamespace }));
  else if (key === "g") prefixAt = performance.now();
  else if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (key === "?") openDialog(Help);
  else if (key === "/" && search()) event.preventDefault();
  else return;
  event.preventDefault();
}
