// Sign in: an API key or a token is exchanged for a session cookie and forgotten.

import { html, useEffect, useRef, useState } from "../../vendor/htm/preact-standalone.js";
import { adopt, request } from "../data.js";
import { config, go, safeNext } from "../route.js";
import { Icon } from "../ui.js";

const WHAT = { api_key: "API key", jwt: "token (JWT)", combined: "API key or token (JWT)" };

export default function Login({ route, brand }) {
  const [error, setError] = useState(null);
  const [sending, setSending] = useState(false);
  const field = useRef(null);
  useEffect(() => {
    document.title = `Sign in · ${config.pageTitle}`;
  }, []);
  const what = WHAT[config.authMode] || "API key";
  const submit = async (event) => {
    event.preventDefault();
    const secret = field.current.value.trim();
    field.current.value = "";
    field.current.focus();
    if (!secret || sending) return;
    setSending(true);
    setError(null);
    try {
      adopt((await request("/session", { method: "POST", headers: { Authorization: `Bearer ${secret}` } })).data);
      go(safeNext(route.params.next), { replace: true });
    } catch (failure) {
      setError(failure.message);
      setSending(false);
    }
  };
  return html`<div class="login">${brand}
    <h1>Sign in</h1>
    <form data-testid="login-form" class="form" onSubmit=${submit}>
      <div class="field"><label for="login-token">${what[0].toUpperCase() + what.slice(1)}</label>
        <input id="login-token" data-testid="login-token" type="password" ref=${field} required autofocus autocomplete="off" spellcheck=${false}
          aria-invalid=${error ? "true" : undefined} aria-describedby="login-error" />
      </div>
      <div id="login-error">${error && html`<div class="message failure" role="alert"><${Icon} name="warning" /><span>${error}</span></div>`}</div>
      <button type="submit" class="button primary" data-testid="login-submit" disabled=${sending}>Sign in</button>
    </form>
  </div>`;
}
