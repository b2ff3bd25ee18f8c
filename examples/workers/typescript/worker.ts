// ApproveAndDeploy as a worker in TypeScript: fetch, the types of openapi.json, and nothing else.
//
//   npm install
//   npm start            (makes api.d.ts from a running engine, compiles, runs)
//
// ASSAY_ENGINE_URL is the engine's address (default http://127.0.0.1:8080), ASSAY_TOKEN an API key or JWT. Ctrl-C or
// SIGTERM stops it after what it is working on. docs/workers.md explains the protocol step by step.
//
// A workflow is a generator: it yields what it wants done and gets the outcome back. It runs again from its start over
// the recorded history for every task, so it decides by nothing but its input and these outcomes.

import { hostname } from "node:os";
import type { components } from "./api.js";

type Schemas = components["schemas"];
type Command = Schemas["SubmitCommands"]["commands"][number];
type WorkflowTask = Schemas["WorkflowTask"];
type ActivityTask = Schemas["ActivityTask"];
type Json = any;

const QUEUE = "deploys";
const POLL_SECS = 2; // how long a poll stays open; also the longest that a stop waits for one
const SLOTS = 4;
const BASE = (process.env.ASSAY_ENGINE_URL || "http://127.0.0.1:8080").replace(/\/+$/, "") + "/api/v1/engine/workflow";

// ------------------------------------------------------------------------------------ what this worker does

function* approveAndDeploy(run: Run, given: Json): Steps {
  const state = { stage: "build", progress: 0 };
  run.queries.set("pipeline_state", () => state);

  const artifact = yield run.activity("build", { ref: given.git_sha });

  Object.assign(state, { stage: "awaiting_approval", progress: 0.33 });
  const approval = yield run.signal("approve");

  Object.assign(state, { stage: "deploying", progress: 0.66 });
  yield run.searchAttributes({ approver: approval.by });
  const result = yield run.activity("deploy", { image: artifact.image, env: given.target_env, approver: approval.by });

  Object.assign(state, { stage: "done", progress: 1 });
  return result;
}

async function build(given: Json): Promise<Json> {
  console.log(`building ${given.ref}`);
  await pause(0.5); // compile, test, push
  return { image: `registry.example.com/app:${given.ref}` };
}

async function deploy(given: Json): Promise<Json> {
  console.log(`deploying ${given.image} to ${given.env}, approved by ${given.approver}`);
  await pause(0.5); // roll out, wait until it is healthy
  return { image: given.image, env: given.env, approved_by: given.approver };
}

const workflows: Record<string, Workflow> = { ApproveAndDeploy: approveAndDeploy };
const activities: Record<string, (given: Json) => Promise<Json>> = { build, deploy };

// ------------------------------------------------------------------------------------------------ the engine

/** The engine refuses the request, and repeating it would change nothing. */
class Refused extends Error {
  constructor(readonly status: number, error: string, readonly code: string) {
    super(`HTTP ${status}: ${error}`);
  }
}

let stopping = false;
const pause = (seconds: number) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** One request, again and again while the engine is away: all requests of a worker may be repeated. */
async function call<Answer>(method: string, segments: string[], body: object = {}): Promise<Answer> {
  const url = [BASE, ...segments.map(encodeURIComponent)].join("/");
  const headers: Record<string, string> = { "Content-Type": "application/json", "X-Requested-With": "assay" };
  if (process.env.ASSAY_TOKEN) headers.Authorization = `Bearer ${process.env.ASSAY_TOKEN}`;
  for (let delay = 0.1, left = 10; ; delay = Math.min(delay * 2, 2)) {
    let problem: string;
    try {
      const signal = AbortSignal.timeout(30_000);
      const answer = await fetch(url, { method, headers, body: JSON.stringify(body), signal });
      const text = await answer.text();
      if (answer.ok) return JSON.parse(text || "null");
      const { error = text, code = "?" } = decoded(text);
      if (answer.status < 500 && answer.status !== 408 && answer.status !== 429) {
        throw new Refused(answer.status, error, code);
      }
      problem = error;
    } catch (error) {
      if (error instanceof Refused) throw error;
      problem = String((error as Error).cause ?? error);
    }
    if (stopping && --left <= 0) throw new Error(`the engine is away: ${problem}`);
    console.log(`${problem}; trying again in ${delay} s`);
    await pause(delay);
  }
}

function decoded(text: string): { error?: string; code?: string } {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

// -------------------------------------------------------------------------------------- workflows: the replay

type Step = Extract<Command, { seq: number }>;
type Steps = Generator<Step, Json, Json>;
type Workflow = (run: Run, given: Json) => Steps;

class Cancelled extends Error {}
class NonDeterminism extends Error {}

/** What a workflow can ask for. Each kind of step is numbered from 1; the history uses the same numbers. */
class Run {
  readonly queries = new Map<string, () => Json>();
  private readonly numbers = new Map<string, number>();

  activity(name: string, input: Json): Step {
    return { type: "ScheduleActivity", seq: this.next("activity"), name, input } as Step;
  }
  sleep(seconds: number): Step {
    return { type: "ScheduleTimer", seq: this.next("timer"), duration_secs: seconds };
  }
  signal(name: string): Step {
    return { type: "WaitForSignal", seq: this.next("wait"), name } as Step;
  }
  searchAttributes(patch: Record<string, Json>): Step {
    return { type: "UpsertSearchAttributes", seq: this.next("upsert"), patch };
  }
  private next(kind: string): number {
    const number = (this.numbers.get(kind) ?? 0) + 1;
    this.numbers.set(kind, number);
    return number;
  }
}

type Outcome = { value?: Json; error?: Error };

/** What was recorded about a run, ready to be asked for. */
class History {
  cancelRequested = false;
  readonly recorded = new Map<string, Json>();
  private readonly outcomes = new Map<string, Outcome>();
  private readonly signals = new Map<string, Json[]>();

  constructor(events: Schemas["HistoryEvent"][]) {
    for (const event of events) this.take(event.event_type, event.payload as Json);
  }

  private take(type: string, payload: Json): void {
    if (type === "ActivityScheduled") this.recorded.set(`ScheduleActivity ${payload.activity_seq}`, payload);
    if (type === "ActivityCompleted") {
      this.outcomes.set(`ScheduleActivity ${payload.activity_seq}`, { value: payload.result });
    }
    if (type === "ActivityFailed") {
      const error = new Error(`activity '${payload.name}' failed: ${payload.error}`);
      this.outcomes.set(`ScheduleActivity ${payload.activity_seq}`, { error });
    }
    if (type === "TimerScheduled") this.recorded.set(`ScheduleTimer ${payload.timer_seq}`, payload);
    if (type === "TimerFired") this.outcomes.set(`ScheduleTimer ${payload.timer_seq}`, {});
    if (type === "WorkflowAwaitingSignal") {
      this.recorded.set(`WaitForSignal ${payload.wait_seq}`, { name: payload.signal });
    }
    if (type === "SignalReceived") {
      this.signals.set(payload.signal, [...(this.signals.get(payload.signal) ?? []), payload.payload]);
    }
    if (type === "SearchAttributesUpserted") {
      this.recorded.set(`UpsertSearchAttributes ${payload.upsert_seq}`, payload);
    }
    if (type === "WorkflowCancelRequested") this.cancelRequested = true;
  }

  /** The outcome of a step, undefined while there is none. */
  outcome(step: Step): Outcome | undefined {
    const key = `${step.type} ${step.seq}`;
    const recorded = this.recorded.get(key);
    const name = "name" in step ? step.name : undefined;
    if (recorded && recorded.name !== name) {
      throw new NonDeterminism(`the history has '${recorded.name}', the workflow asks for ${key} of '${name}'`);
    }
    if (step.type === "WaitForSignal") {
      const waiting = this.signals.get(step.name);
      return waiting?.length ? { value: waiting.shift() } : undefined;
    }
    return step.type === "UpsertSearchAttributes" ? {} : this.outcomes.get(key);
  }
}

/** Run a workflow over its history up to the first step without an outcome; the commands that are new. */
function replay(workflow: Workflow, task: WorkflowTask): Command[] {
  const run = new Run();
  const history = new History(task.history);
  const commands: Command[] = [];
  try {
    const steps = workflow(run, task.input);
    let next = steps.next();
    while (!next.done) {
      const step = next.value;
      const outcome = history.outcome(step);
      if (!outcome && history.cancelRequested) {
        next = steps.throw(new Cancelled("cancelled")); // no new work for a run that is to end
        continue;
      }
      const isStoredSignal = step.type === "WaitForSignal" && outcome;
      if (!history.recorded.has(`${step.type} ${step.seq}`) && !isStoredSignal) commands.push(step);
      if (!outcome) break; // the engine gives out the run again when there is news
      next = outcome.error ? steps.throw(outcome.error) : steps.next(outcome.value);
    }
    if (next.done) commands.push({ type: "CompleteWorkflow", result: next.value ?? null });
  } catch (error) {
    if (error instanceof NonDeterminism) throw error;
    if (error instanceof Cancelled) commands.push({ type: "CancelWorkflow" } as Command);
    else commands.push({ type: "FailWorkflow", error: String(error) });
  }
  const state = Object.fromEntries([...run.queries].map(([name, query]) => [name, query()]));
  return run.queries.size ? [{ type: "RecordSnapshot", state }, ...commands] : commands;
}

// ------------------------------------------------------------------------------------------------ the worker

let me = "";
let beatSecs = 1;
let registering: Promise<void> | undefined;
const held = new Set<string>(); // tokens of the tasks in progress

async function register(): Promise<void> {
  const body: Schemas["RegisterWorker"] = {
    identity: `typescript-worker-${hostname()}-${process.pid}`,
    queue: QUEUE,
    namespace: process.env.ASSAY_NAMESPACE || "main",
    workflows: Object.keys(workflows),
    activities: Object.keys(activities),
    max_concurrent_workflows: 1,
    max_concurrent_activities: SLOTS,
    sticky: false,
  };
  const lease = await call<Schemas["Lease"]>("POST", ["workers", "register"], body);
  me = lease.worker_id;
  beatSecs = lease.heartbeat_interval_secs;
  console.log(`registered as ${me} on queue ${QUEUE}`);
}

/** Get a new worker id, once for all loops that noticed the loss of the former one. */
async function registerAgain(former: string): Promise<void> {
  if (me !== former) return;
  registering ??= register().finally(() => (registering = undefined));
  await registering;
}

async function poll<Task extends { task_token: string }>(kind: string, work: (task: Task, id: string) => Promise<void>) {
  while (!stopping) {
    const id = me;
    try {
      const task = await call<Task | null>("POST", [kind, "poll"], { worker_id: id, wait_secs: POLL_SECS });
      if (!task) continue;
      held.add(task.task_token);
      await work(task, id).finally(() => held.delete(task.task_token));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.code === "unknown_worker") await registerAgain(id);
      else if (error.status === 404 || error.status === 409) console.log(`task dropped: ${error.message}`);
      else {
        console.error(error.message);
        await pause(5);
      }
    }
  }
}

/** Renew the leases of the tasks in progress; without signs of life others get them. */
async function beat(): Promise<void> {
  const id = me;
  try {
    await call("POST", ["workers", "heartbeat"], { worker_id: id, task_tokens: [...held] });
  } catch (error) {
    if (error instanceof Refused) await registerAgain(id);
  }
  setTimeout(beat, beatSecs * 1000).unref();
}

/** A workflow task: history in, commands out. */
async function decide(task: WorkflowTask, id: string): Promise<void> {
  const mine = { worker_id: id, task_token: task.task_token };
  try {
    const commands = replay(workflows[task.workflow_type]!, task);
    await call("POST", ["workflow-tasks", task.workflow_id, "commands"], { ...mine, commands });
  } catch (error) {
    const kind = error instanceof NonDeterminism ? "non_determinism" : "internal";
    if (error instanceof Refused && error.status !== 413 && error.status !== 422) throw error;
    const failure = { ...mine, kind, error: (error as Error).message };
    await call("POST", ["workflow-tasks", task.workflow_id, "fail"], failure);
  }
}

/** An attempt of an activity: its result or its error goes back, whatever happens. */
async function perform(task: ActivityTask, id: string): Promise<void> {
  const mine = { worker_id: id, task_token: task.task_token };
  const about = (verb: string, fields: object) => call("POST", ["tasks", String(task.id), verb], { ...mine, ...fields });
  let result: Json;
  try {
    result = (await activities[task.name]!(task.input)) ?? null;
  } catch (error) {
    await about("fail", { error: String(error) });
    return;
  }
  try {
    await about("complete", { result });
  } catch (error) {
    if (!(error instanceof Refused) || (error.status !== 413 && error.status !== 422)) throw error;
    // The result is too large: no further attempt would help, and whoever waits for it must know why.
    await about("fail", { error: `activity result refused: ${error.message}`, non_retryable: true });
  }
}

for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => (stopping = true));
try {
  await register();
  void beat();
  const slots = Array.from({ length: SLOTS }, () => poll<ActivityTask>("tasks", perform));
  await Promise.all([poll<WorkflowTask>("workflow-tasks", decide), ...slots]);
  await call("DELETE", ["workers", me]);
  console.log("stopped");
} catch (error) {
  console.error(`error: ${(error as Error).message}`);
  process.exitCode = 1;
}
