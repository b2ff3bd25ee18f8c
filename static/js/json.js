// JSON as operators see it: a check that names line and column, and values as text in a box.

import { html, useMemo } from "../vendor/htm/preact-standalone.js";
import { toJson } from "./data.js";
import { Copy } from "./ui.js";

const LONGEST_SHOWN = 256 * 1024;
const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /[A-Za-z_$][\w$]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const STRING_START = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*/y;

class Problem extends Error {
  constructor(at, message) {
    super(message);
    this.at = at;
  }
}

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  skip(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found ? found[0] : null;
  }

  next() {
    this.skip(SPACE);
    return this.text[this.at];
  }

  take(character) {
    if (this.next() !== character) return false;
    this.at += 1;
    return true;
  }

  value() {
    const first = this.next();
    if (first === undefined) throw new Problem(this.at, "a value is missing at the end");
    if (first === "{") return this.members("}", () => this.member());
    if (first === "[") return this.members("]", () => this.value());
    if (first === '"') return this.string();
    if (first === "'") throw new Problem(this.at, "texts stand in double quotes");
    const start = this.at;
    if (this.skip(NUMBER)) return this.end(start);
    const word = this.skip(WORD);
    if (word === "true" || word === "false" || word === "null") return undefined;
    if (word) throw new Problem(start, `“${word.slice(0, 20)}” is no JSON value; texts stand in double quotes`);
    throw new Problem(start, first === "," || first === "}" || first === "]" ? "a value is missing here" : `“${first}” cannot start a value`);
  }

  end(start) {
    if (/[\w.+-]/.test(this.text[this.at] || " ")) throw new Problem(start, "this is no JSON number");
  }

  string() {
    if (this.skip(STRING)) return;
    const start = this.at;
    this.skip(STRING_START);
    const stopped = this.text[this.at];
    if (stopped === "\\") throw new Problem(this.at, "unknown escape in a text");
    if (stopped === undefined || stopped === "\n" || stopped === "\r") throw new Problem(start, "this text has no closing quote");
    throw new Problem(this.at, "control characters in a text are written as escapes such as \\t");
  }

  member() {
    if (this.next() !== '"') throw new Problem(this.at, "a name in double quotes is expected here");
    this.string();
    if (!this.take(":")) throw new Problem(this.at, "a colon is expected here");
    this.value();
  }

  members(closing, one) {
    this.at += 1;
    if (this.take(closing)) return;
    do {
      if (this.next() === closing) throw new Problem(this.at, "a comma before the closing bracket is one too many");
      one();
    } while (this.take(","));
    if (!this.take(closing)) throw new Problem(this.at, `“,” or “${closing}” is expected here`);
  }
}

/** Null when `text` is JSON (or an object, with `object`), else a sentence with line and column. */
export function checkJson(text, { object = false } = {}) {
  const reader = new Reader(text);
  try {
    if (object && reader.next() !== "{") throw new Problem(reader.at, "a JSON object is expected, such as {\"env\": \"prod\"}");
    reader.value();
    if (reader.next() !== undefined) throw new Problem(reader.at, "nothing may follow the value");
  } catch (problem) {
    if (problem instanceof RangeError) return "This is nested too deeply.";
    const before = text.slice(0, problem.at).split("\n");
    return `Line ${before.length}, column ${[...before.at(-1)].length + 1}: ${problem.message}.`;
  }
  return null;
}

/** The whole text as a file. */
function download(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A JSON value as text in a box that scrolls, with a copy button; a very long one is cut and can be saved. */
export function JsonBox({ value, label, name = "value.json", ...rest }) {
  const text = useMemo(() => toJson(value, 2), [value]);
  const long = text.length > LONGEST_SHOWN;
  return html`<div class="json-box" ...${rest}>
    <pre tabindex="0" role="region" aria-label=${label}><code>${long ? text.slice(0, LONGEST_SHOWN) : text}</code></pre>
    <div class="json-tools">
      ${long && html`<button type="button" class="button small" onClick=${() => download(text, name)}>Cut after 256 KiB. Download all</button>`}
      <${Copy} text=${text} label="Copy ${label}" />
    </div>
  </div>`;
}
