-- The worker loop: takes events from the host (tasks, outcomes of host operations, lost leases), runs handlers and
-- hands results back. Holds the cache of live runs, least recently used first out.

local activity = import("activity")
local builtins = import("builtins")
local json = import("json")
local mode = import("mode")
local replay = import("replay")
local text = import("text")

local worker = {}

local definitions = { workflow = {}, activity = {} }
local listening = false

-------------------------------------------------------------------------------------------------------- the cache

-- A doubly linked list through run.older / run.newer; `ends` closes the ring.
local cached, cached_count, cache_size = {}, 0, 1000
local ends = {}
ends.older, ends.newer = ends, ends

local function unlink(run)
  run.older.newer, run.newer.older = run.newer, run.older
  run.older, run.newer = nil, nil
end

local function drop(run)
  if cached[run.workflow_id] == run then
    cached[run.workflow_id] = nil
    cached_count = cached_count - 1
    unlink(run)
  end
end

local function keep(run)
  drop(run)
  cached[run.workflow_id] = run
  cached_count = cached_count + 1
  run.older, run.newer = ends.older, ends
  run.older.newer, ends.older = run, run
  if cached_count > cache_size then
    drop(ends.newer)
  end
end

local function drop_all()
  for _, run in pairs(cached) do
    run.older, run.newer = nil, nil
  end
  cached, cached_count = {}, 0
  ends.older, ends.newer = ends, ends
end

------------------------------------------------------------------------------------------------------ workflow tasks

local function deliver_failure(task, kind, message)
  builtins.write_log("ERROR", "workflow " .. task.workflow_id .. ": task failed (" .. kind .. "): " .. message)
  host.task_done(
    task.task_token, '"task_failure":{"kind":"' .. kind .. '","error":' .. json.encode(text.valid_utf8(message)) .. "}"
  )
end

local function run_task(task, run, events)
  local ok, outcome = xpcall(replay.turn, debug.traceback, run, events)
  if not ok then
    mode.run, mode.base, mode.query, mode.dead = nil, nil, false, false
    drop(run)
    return deliver_failure(task, "internal", outcome)
  elseif outcome.failure then
    drop(run)
    return deliver_failure(task, outcome.failure, outcome.error)
  end
  if outcome.closed or cache_size == 0 then
    drop(run)
  else
    run.token = task.task_token
    keep(run)
  end
  host.task_done(task.task_token, '"commands":' .. outcome.commands)
end

-- Tasks whose earlier events are being read, by the id of that operation.
local reading = {}

local function start_run(task, events)
  local handler = definitions.workflow[task.workflow_type]
  if not handler then
    return deliver_failure(
      task, "unknown_workflow_type", "this worker has no handler for workflow type '" .. task.workflow_type .. "'"
    )
  end
  run_task(task, replay.new(task, handler), events)
end

local function on_workflow_task(encoded)
  local task = assert(json.decode(encoded))
  local from = task.history_from_seq
  local run = cached[task.workflow_id]
  if run and run.run_id == task.run_id and run.seq == from - 1 and from > 1 then
    return run_task(task, run, task.history)
  end
  if run then
    drop(run)
  end
  if from == 1 then
    return start_run(task, task.history)
  end
  reading[host.submit("events", task.task_token, task.workflow_id, from - 1)] = task
end

local function on_events_read(task, ok, encoded)
  if not ok then
    return deliver_failure(task, "internal", "cannot read the history: " .. encoded)
  elseif encoded == nil then
    return host.drop_task(task.task_token) -- the lease was lost meanwhile
  end
  local events = assert(json.decode(encoded))
  table.move(task.history, 1, #task.history, #events + 1, events)
  start_run(task, events)
end

-- The engine gave another answer than `applied` to a task: the cached run is not what the engine has.
local function on_settled(workflow_id, token)
  local run = cached[workflow_id]
  if run and run.token == token then
    drop(run)
  end
end

----------------------------------------------------------------------------------------------------------- activities

local active = {} -- by task token

function activity.on_end(act)
  active[act.token] = nil
end

local function on_activity_task(encoded)
  local task = assert(json.decode(encoded))
  local handler = definitions.activity[task.name]
  if not handler then
    local message = "this worker has no handler for activity '" .. task.name .. "'"
    host.task_done(task.task_token, '"error":' .. json.encode(message))
    return
  end
  local act = activity.start(task, handler)
  if coroutine.status(act.co) ~= "dead" then
    active[act.token] = act
  end
end

local function on_lost(token, workflow_id)
  local act = active[token]
  if act then
    act.lost = true
  end
  local run = cached[workflow_id]
  if run and run.token == token then
    drop(run)
  end
end

local function on_reset()
  drop_all()
  for _, act in pairs(active) do
    act.lost = true
  end
end

--------------------------------------------------------------------------------------------------------------- loop

local handlers = {
  workflow = on_workflow_task,
  activity = on_activity_task,
  settled = on_settled,
  lost = on_lost,
  reset = on_reset,
}

function handlers.operation(id, ...)
  local task = reading[id]
  if task then
    reading[id] = nil
    return on_events_read(task, ...)
  end
  activity.wake(id, ...)
end

local function handle(kind, ...)
  if kind == "refused" then
    error("workflow.listen failed: " .. (...), 0)
  elseif kind == "stopped" then
    return false
  end
  handlers[kind](...)
  return true
end

-- Registers a handler of a workflow type or an activity.
function worker.define(kind, name, handler)
  definitions[kind][name] = handler
end

function worker.is_listening()
  return listening
end

-- Whether anything is defined.
function worker.has_definitions()
  return next(definitions.workflow) ~= nil or next(definitions.activity) ~= nil
end

local function names(kind)
  local list = json.array()
  for name in pairs(definitions[kind]) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

-- Works until the process is told to stop; `opts` holds checked values. Never returns: the process ends.
function worker.listen(opts)
  listening = true
  cache_size = opts.cache_size
  local registration = json.encode({
    identity = opts.identity,
    queue = opts.queue,
    namespace = opts.namespace,
    workflows = names("workflow"),
    activities = names("activity"),
    max_concurrent_workflows = opts.max_concurrent_workflows,
    max_concurrent_activities = opts.max_concurrent_activities,
    sticky = true,
  })
  host.listen(host, registration)
  while handle(host.next_event()) do end
  io.stdout:flush()
  host.leave()
end

return worker
