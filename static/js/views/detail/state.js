// The State tab: the newest values of the run's queries.

import { html } from "../../../vendor/htm/preact-standalone.js";
import { path, useQuery } from "../../data.js";
import { JsonBox } from "../../json.js";
import { Empty, Failure, Loading, Time } from "../../ui.js";

export default function State({ ns, run }) {
  const { data, error, retry, loading } = useQuery(path(["workflows", run.id, "state"], { namespace: ns, optional: true }), { topics: [`run:${run.id}`] });
  if (loading) return html`<${Loading} />`;
  return html`<${Failure} error=${error} retry=${retry} />
    ${data === null && html`<${Empty} title="No state published"><p>A handler publishes live values with <code class="mono">ctx:register_query(name, fn)</code>.</p><//>`}
    ${data && html`<p class="muted">event seq ${data.event_seq} · <${Time} at=${data.created_at} full /></p><${JsonBox} value=${data.state} label="State" name="state.json" />`}`;
}
