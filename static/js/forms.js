// Dialogs and forms: a modal frame, fields with labels and errors, and one way to send.
//
//   <${FormDialog} title="Signal" close=${close} submit="Send" send=${async (values) => {...}} initial=${{name: ""}}>
//     <${TextField} name="name" label="Name" required />
//     <${JsonField} name="payload" label="Payload" />
//   <//>
//
// A field finds its value and its errors in the form around it. `send(values)` may throw an ApiError: its `fields`
// appear at the fields, its sentence above the buttons when it is about anything else. The values stay until they are sent
// or the form is left; when the session ends meanwhile, they are there again after the sign-in.

import { createContext, html, useContext, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm/preact-standalone.js";
import { RawJson } from "./data.js";
import { checkJson } from "./json.js";
import { Icon, useDraft } from "./ui.js";

const FormContext = createContext(null);
let lastId = 0;

function useId() {
  const [id] = useState(() => `f${(lastId += 1)}`);
  return id;
}

/** A modal dialog; Escape closes it. `subject` is the id of what it is about. */
export function Dialog({ title, subject, close, children, wide = false, className = "" }) {
  const box = useRef(null);
  const id = useId();
  useLayoutEffect(() => {
    box.current.showModal();
    (box.current.querySelector("[autofocus]") || box.current.querySelector("input:not([readonly]), textarea, select") || box.current).focus();
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    close();
  };
  return html`<dialog ref=${box} class="dialog ${wide ? "wide" : ""} ${className}" data-testid="dialog" aria-labelledby=${id} tabindex="-1" onCancel=${cancel} onClose=${() => close()}>
    <header class="dialog-head"><h2 id=${id}>${title}</h2>
      <button type="button" class="button quiet square" aria-label="Close" onClick=${() => close()}><${Icon} name="close" /></button></header>
    ${subject && html`<p class="dialog-subject mono">${subject}</p>`}
    ${children}
  </dialog>`;
}

/** JSON text of a field as a request member: absent when blank. */
export const jsonValue = (text) => (text.trim() ? new RawJson(text.trim()) : undefined);

/**
 * A form; `children` are fields, `notice` what stands before the buttons. `initial` holds the first values by name.
 * `send(values)` is called once at a time, and never while a field says that its text is wrong; afterwards the form is
 * as it was at first. `leave` is the label of the button that changes nothing, `name` the form's own on its page.
 */
export function Form({ name = "form", initial = {}, send, submit = "Save", danger = false, dismiss, leave = "Cancel", notice, children, ...rest }) {
  const draft = useDraft(name);
  const [values, setValues] = useState(draft.values || initial);
  const latest = useRef(values); // a key and Enter may come faster than the next rendering
  const [sending, setSending] = useState(false);
  const [failure, setFailure] = useState(null);
  const [tried, setTried] = useState(false);
  const checks = useRef(new Map());
  const form = useRef(null);
  const busy = useRef(false);
  const alive = useRef(true);
  useEffect(() => {
    if (draft.last) form.current.querySelector(`[name="${draft.last}"]`)?.focus();
    return () => (alive.current = false);
  }, []);
  const set = (name, value) => {
    latest.current = { ...latest.current, [name]: value };
    setValues(latest.current);
    Object.assign(draft, { values: latest.current, last: name });
    if (failure?.fields?.[name]) setFailure({ ...failure, fields: { ...failure.fields, [name]: undefined } });
  };
  const begin = () => {
    latest.current = initial;
    setValues(initial);
    setTried(false);
    Object.assign(draft, { values: null, last: null });
  };
  const focusFirstError = () => setTimeout(() => form.current?.querySelector("[aria-invalid=true]")?.focus());
  const submitted = async (event) => {
    event.preventDefault();
    if (busy.current) return;
    setTried(true);
    if ([...checks.current].some(([name, wrong]) => wrong(latest.current[name] ?? ""))) return focusFirstError();
    busy.current = true;
    setSending(true);
    setFailure(null);
    try {
      await send(latest.current);
      if (alive.current) begin();
    } catch (error) {
      if (alive.current) {
        setFailure({ message: error.message, fields: error.fields || {} });
        focusFirstError();
      }
    }
    busy.current = false;
    if (alive.current) setSending(false);
  };
  const context = { values, set, tried, errors: failure?.fields || {}, checks: checks.current };
  const blamed = Object.keys(failure?.fields || {});
  const elsewhere = failure && !(blamed.length && blamed.every((name) => checks.current.has(name)));
  return html`<${FormContext.Provider} value=${context}>
    <form ref=${form} class="form" novalidate onSubmit=${submitted} ...${rest}>
      <div class="fields">${children}</div>
      ${elsewhere && html`<div class="message failure" role="alert"><${Icon} name="warning" /><span>${failure.message}</span></div>`}
      <footer class="form-buttons">
        ${notice}<span class="spring"></span>
        ${dismiss && html`<button type="button" class="button" data-testid="dismiss" onClick=${() => dismiss()}>${leave}</button>`}
        <button type="submit" class="button ${danger ? "danger" : "primary"}" data-testid="submit" disabled=${sending}>${sending ? "Sending…" : submit}</button>
      </footer>
    </form>
  <//>`;
}

/** A dialog that is one form. */
export const FormDialog = ({ title, subject, close, wide, text, children, ...form }) => html`<${Dialog} title=${title} subject=${subject} close=${close} wide=${wide}>
  ${text && html`<p class="dialog-text">${text}</p>`}
  <${Form} dismiss=${close} ...${form}>${children}<//>
<//>`;

/** What is typed into the form around a component, by field. */
export const useFormValues = () => useContext(FormContext).values;

/** What every field has in common; `check(text)` gives a sentence when the text cannot be used. */
function useField({ name, required, check, whenTried = true }) {
  const form = useContext(FormContext);
  const value = form.values[name] ?? "";
  const wrong = (text) => {
    if (required && !text.trim()) return "Please fill this in.";
    return (text.trim() && check?.(text)) || null;
  };
  useLayoutEffect(() => {
    form.checks.set(name, wrong);
    return () => form.checks.delete(name);
  });
  const own = form.tried || !whenTried ? (value.trim() || form.tried ? wrong(value) : null) : null;
  return { value, error: own || form.errors[name]?.join(" ") || null, set: (text) => form.set(name, text) };
}

function Field({ id, label, hint, error, required, children }) {
  return html`<div class="field ${error ? "has-error" : ""}">
    <label for=${id}>${label}${required && html`<span class="required" aria-hidden="true"> *</span>`}</label>
    ${children}
    ${hint && html`<p class="hint" id="${id}-hint">${hint}</p>`}
    <p class="error" id="${id}-error" aria-live="polite">${error}</p>
  </div>`;
}

const described = (id, hint) => (hint ? `${id}-hint ${id}-error` : `${id}-error`);

/** One line of text; `options` are suggestions (texts, or {value, label}). */
export function TextField({ name, label, hint, required = false, options, check, mono = false, ...rest }) {
  const id = useId();
  const { value, error, set } = useField({ name, required, check });
  return html`<${Field} id=${id} label=${label} hint=${hint} error=${error} required=${required}>
    <input id=${id} name=${name} class=${mono ? "mono" : ""} data-testid="field-${name}" value=${value} list=${options ? `${id}-list` : undefined}
      required=${required} aria-invalid=${error ? "true" : undefined} aria-describedby=${described(id, hint)} autocomplete="off" autocapitalize="off" spellcheck=${false}
      onInput=${(event) => set(event.target.value)} ...${rest} />
    ${options && html`<datalist id="${id}-list">${options.map((option) => {
      const { value: text, label: shown } = typeof option === "string" ? { value: option } : option;
      return html`<option key=${text} value=${text}>${shown}</option>`;
    })}</datalist>`}
  <//>`;
}

/** A choice of `options`: texts, or {value, label}. */
export function SelectField({ name, label, hint, options, ...rest }) {
  const id = useId();
  const { value, error, set } = useField({ name });
  return html`<${Field} id=${id} label=${label} hint=${hint} error=${error}>
    <select id=${id} name=${name} data-testid="field-${name}" value=${value} aria-invalid=${error ? "true" : undefined} aria-describedby=${described(id, hint)}
      onChange=${(event) => set(event.target.value)} ...${rest}>
      ${options.map((option) => {
        const { value: text, label: shown } = typeof option === "string" ? { value: option, label: option } : option;
        return html`<option key=${text} value=${text} selected=${text === value}>${shown}</option>`;
      })}
    </select>
  <//>`;
}

/** JSON text, checked while it is typed; `object`: it must be an object. Use jsonValue(values.name) in send. */
export function JsonField({ name, label, hint, required = false, object = false, rows = 5, ...rest }) {
  const id = useId();
  const { value, error, set } = useField({ name, required, check: (text) => checkJson(text, { object }), whenTried: false });
  return html`<${Field} id=${id} label=${label} hint=${hint} error=${error} required=${required}>
    <textarea id=${id} name=${name} class="mono" rows=${rows} data-testid="field-${name}" value=${value} required=${required}
      aria-invalid=${error ? "true" : undefined} aria-describedby=${described(id, hint)} autocomplete="off" autocapitalize="off" spellcheck=${false}
      onInput=${(event) => set(event.target.value)} ...${rest}></textarea>
  <//>`;
}

/** A question with a dangerous answer: openDialog(Confirm, {title, text, submit, send}). */
export const Confirm = ({ title, subject, text, submit = "Delete", close, send }) =>
  html`<${FormDialog} title=${title} subject=${subject} text=${text} close=${close} submit=${submit} danger send=${async () => { await send(); close(true); }} />`;
