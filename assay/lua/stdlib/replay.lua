-- Drives the coroutine of a run: feeds it events, lets the handler go on as far as history allows, and turns what it
-- asked for into the commands of one workflow task. From-scratch replay and continuation are the same code.

local builtins = import("builtins")
local control = import("control")
local ctx = import("ctx")
local history = import("history")
local json = import("json")
local keys = import("keys")
local mode = import("mode")
local text = import("text")

local resume, status = coroutine.resume, coroutine.status

local replay = {}

-- The body of a run's coroutine. An error that leaves the handler unwinds it here, inside the coroutine, so that its
-- to-be-closed variables are closed while the run can still record what they ask for.
local function body(handler, ...)
  local ok, value = pcall(handler, ...)
  if not ok then
    error(value, 0)
  end
  return value
end

-- A run at its beginning. `task` is a decoded workflow task, `handler` the function of its type.
function replay.new(task, handler)
  local run = history.new_run(task)
  run.ctx = ctx.new(task)
  run.co = control.create_watched(function(...)
    return body(handler, ...)
  end)
  return run
end

-- Resumes a coroutine of the run in workflow mode. Returns its results and whether the guard stopped it.
local function resume_as(run, co, ...)
  mode.run, mode.activity, mode.base = run, nil, co
  control.reached_wait(run)
  local ok, what, first, second = resume(co, ...)
  local dead = mode.dead
  mode.run, mode.base, mode.dead = nil, nil, false
  return dead, ok, what, first, second
end

------------------------------------------------------------------------------------------------------- snapshots

-- The JSON text of a query's value, or nil and the reason.
local function query_value(run, fn)
  local co = control.create_watched(fn)
  mode.query = true
  local _, ok, value = resume_as(run, co)
  mode.query = false
  if not ok then
    return nil, text.of_error(value)
  elseif status(co) ~= "dead" then
    return nil, "it yielded"
  end
  return json.encode(value)
end

-- Adds a RecordSnapshot when the queries show something else than the last time.
local function add_snapshot(run)
  if next(run.queries) == nil then
    return
  end
  local _, names = keys.sorted(run.queries)
  local members = {}
  for _, name in ipairs(names) do
    local value, reason = query_value(run, run.queries[name])
    if value then
      members[#members + 1] = json.encode(name) .. ":" .. value
    else
      builtins.write_log("WARN", "workflow " .. run.workflow_id .. ": query '" .. name .. "' left out: " .. reason)
    end
  end
  local state = "{" .. table.concat(members, ",") .. "}"
  if state ~= run.snapshot then
    run.snapshot = state
    run.commands[#run.commands + 1] = '{"type":"RecordSnapshot","state":' .. state .. "}"
  end
end

--------------------------------------------------------------------------------------------------------- closing

local function cancel_command(reason)
  return '{"type":"CancelWorkflow"' .. (reason and ',"reason":' .. json.encode(reason) or "") .. "}"
end

local function fail_command(message)
  return '{"type":"FailWorkflow","error":' .. json.encode(message) .. "}"
end

local function result_command(value)
  local encoded, reason = json.encode(value)
  if not encoded then
    return fail_command("workflow result: " .. reason)
  end
  return '{"type":"CompleteWorkflow","result":' .. encoded .. "}"
end

local function continue_command(run, input)
  local unconsumed = history.unconsumed_signals(run)
  return '{"type":"ContinueAsNew","input":' .. input .. ',"unconsumed_signals":' .. json.encode(unconsumed) .. "}"
end

-- The closing command of a handler that returned or raised.
local function end_command(run, ok, value)
  if run.cancel then
    return cancel_command(run.cancel.reason)
  elseif ok then
    return result_command(value)
  end
  return fail_command(text.of_error(value))
end

-- The closing command of ctx:continue_as_new or ctx:cancel.
local function closing_command(run, way, argument)
  if run.cancel then
    return cancel_command(run.cancel.reason)
  elseif way == "continue_as_new" then
    return continue_command(run, argument)
  end
  return cancel_command(argument)
end

----------------------------------------------------------------------------------------------------------- a turn

local function failed(kind, message)
  return { failure = kind, error = message }
end

-- Whether the history holds commands that the handler, which is about to close the run, never asked for.
local function left_over(run)
  return history.leftover(run, "nothing more")
end

-- Feeds the events and lets the handler go on. Returns {commands = JSON array text, closed = bool}, or
-- {failure = kind, error = text} when the task failed; the run must be dropped then.
function replay.turn(run, events)
  history.feed(run, events)
  run.commands = {}
  local input = run.input
  if input == json.null then
    input = nil
  end
  run.input = nil
  local dead, ok, what, way, argument = resume_as(run, run.co, run.ctx, input)
  local closing
  if dead then
    return failed("internal", text.of_error(what))
  elseif status(run.co) == "dead" then
    closing = end_command(run, ok, what)
  elseif what == ctx.FAIL then
    return failed(way, argument)
  elseif what == ctx.CLOSE then
    closing = closing_command(run, way, argument)
  elseif what ~= ctx.WAIT then
    return failed("internal", "the workflow handler yielded outside of a ctx call")
  end
  local leftover = closing and left_over(run)
  if leftover then
    return failed("non_determinism", leftover)
  end
  add_snapshot(run)
  run.commands[#run.commands + 1] = closing
  return { commands = "[" .. table.concat(run.commands, ",") .. "]", closed = closing ~= nil }
end

return replay
