-- The `ctx` of workflow handlers. Every call takes its outcome from the history or, when there is none yet, yields to
-- replay.lua. Commands collect in run.commands as JSON texts and go out when the handler blocks or ends.

local control = import("control")
local history = import("history")
local json = import("json")
local mode = import("mode")
local options = import("options")
local text = import("text")

local isyieldable, running, yield = coroutine.isyieldable, coroutine.running, coroutine.yield

-- What a handler coroutine yields to replay.lua.
local ctx = { WAIT = {}, CLOSE = {}, FAIL = {} }
local WAIT, CLOSE, FAIL = ctx.WAIT, ctx.CLOSE, ctx.FAIL

local CANCELLED = "__ASSAY_WORKFLOW_CANCELLED__"
local MAX_CANCEL_RAISES = 1000

local methods = {}

--------------------------------------------------------------------------------------------------------- basics

-- The run of a ctx call, or a clear error where ctx must not be used.
local function enter(self, method)
  local run = mode.run
  local co, main = running()
  if run and run.ctx == self and run.co == co and isyieldable() then
    return run
  end
  local place
  if mode.query then
    place = "in a query function"
  elseif mode.side_effect then
    place = "in a side-effect function"
  elseif not run or run.ctx ~= self then
    place = "outside of its workflow handler; call it as ctx:" .. method .. "(...)"
  elseif run.co ~= co and not main then
    place = "in a coroutine that the handler created"
  else
    place = "in a callback of a C function such as table.sort or string.gsub"
  end
  error("ctx:" .. method .. " cannot be used " .. place, 3)
end

local function command(run, encoded)
  run.commands[#run.commands + 1] = encoded
end

-- Ends this turn with a failed task; never returns.
local function fail_non_deterministic(message)
  yield(FAIL, "non_determinism", message)
end

local function next_number(run, kind)
  local number = run.count[kind] + 1
  run.count[kind] = number
  return number
end

-- The recorded command `number` of a kind, if any. Ends the turn when the history has another name under that number
-- (a name that is nil on one side: not compared) or another command is due first.
local function recorded(run, kind, number, name, asked)
  local record = run.records[kind][number]
  if not record or not record.seq then
    return record
  end
  if name ~= nil and record.name ~= nil and record.name ~= name then
    fail_non_deterministic(history.mismatch(record, number, asked))
  end
  local due, due_number = history.ask(run, kind, record)
  if due then
    fail_non_deterministic(history.mismatch(due, due_number, asked))
  end
  return record
end

local function raise_cancelled(run)
  local cancel = run.cancel
  if cancel.at > run.now then
    run.now = cancel.at
  end
  run.cancel_raises = run.cancel_raises + 1
  if run.cancel_raises > MAX_CANCEL_RAISES then
    yield(CLOSE, "cancel")
  end
  error(cancel.reason and CANCELLED .. ": " .. cancel.reason or CANCELLED, 0)
end

-- Waits until `outcome(state)` returns the seq and timestamp of an event in the history.
local function wait(run, outcome, state, asked)
  control.reached_wait(run)
  while true do
    local seq, at = outcome(state)
    local cancel = run.cancel
    if cancel and (not seq or seq > cancel.seq) then
      raise_cancelled(run)
    end
    if seq then
      if at > run.now then
        run.now = at
      end
      return
    end
    if run.unasked > 0 then
      fail_non_deterministic(history.leftover(run, asked))
    end
    yield(WAIT)
  end
end

local function closing_event(record)
  return record.done, record.at
end

local function value_or_nil(value)
  if value == json.null then
    return nil
  end
  return value
end

------------------------------------------------------------------------------------------------------ activities

-- Asks for an activity: its record, with a command when it is new.
local function schedule(run, name, input, members)
  local number = next_number(run, "activity")
  local asked = "activity #" .. number .. " '" .. name .. "'"
  local record = recorded(run, "activity", number, name, asked)
  if not record then
    record = { name = name, asked = true }
    run.records.activity[number] = record
    if not run.cancel then
      command(run, '{"type":"ScheduleActivity","seq":' .. number .. ',"name":' .. json.encode(name)
        .. ',"input":' .. input .. members .. "}")
    end
  end
  return record, number, asked
end

function methods.execute_activity(self, name, input, opts)
  local run = enter(self, "execute_activity")
  options.name("ctx:execute_activity", "name", name, 2)
  local encoded = options.encoded("ctx:execute_activity", "input", input, 2)
  local members = options.activity("ctx:execute_activity", opts, 2)
  local record, number, asked = schedule(run, name, encoded, members)
  wait(run, closing_event, record, asked)
  run.records.activity[number] = nil
  if record.failure then
    error("activity '" .. name .. "' failed: " .. record.failure, 0)
  end
  return value_or_nil(record.value)
end

local ITEM_FIELDS = { [1] = "name", [2] = "input", [3] = "opts", name = "name", input = "input", opts = "opts" }

local function parallel_item(index, item)
  local method = "ctx:execute_parallel: item " .. index
  if type(item) ~= "table" or item == json.null then
    error(method .. ": table expected, got " .. type(item), 3)
  end
  for key in next, item do
    if not ITEM_FIELDS[key] then
      error(method .. ": unknown field '" .. tostring(key) .. "'", 3)
    end
  end
  local name, input, opts = item.name or item[1], item.input, item.opts
  if input == nil then
    input = item[2]
  end
  if opts == nil then
    opts = item[3]
  end
  options.name(method, "name", name, 3)
  return { name = name, input = options.encoded(method, "input", input, 3), members = options.activity(method, opts, 3) }
end

local function all_closed(group)
  if group.open > 0 then
    return nil
  end
  local seq, at = 0, 0
  for _, record in ipairs(group) do
    if record.done > seq then
      seq, at = record.done, record.at
    end
  end
  return seq, at
end

function methods.execute_parallel(self, list)
  local run = enter(self, "execute_parallel")
  if type(list) ~= "table" or list == json.null then
    error("ctx:execute_parallel: array expected, got " .. type(list), 2)
  end
  for key in next, list do
    if math.type(key) ~= "integer" or key < 1 or key > #list then
      error("ctx:execute_parallel: array expected, got a table with the key " .. tostring(key), 2)
    end
  end
  local items = {}
  for index = 1, #list do
    items[index] = parallel_item(index, list[index])
  end
  local results = json.array()
  if #items == 0 then
    return results
  end
  local group, numbers, asked = { open = 0 }, {}, nil
  for index, item in ipairs(items) do
    group[index], numbers[index], asked = schedule(run, item.name, item.input, item.members)
    if not group[index].done then
      group[index].group = group
      group.open = group.open + 1
    end
  end
  wait(run, all_closed, group, asked)
  local failure
  for index, record in ipairs(group) do
    run.records.activity[numbers[index]] = nil
    results[index] = record.value
    if record.failure and not failure then
      failure = "activity '" .. items[index].name .. "' failed: " .. record.failure
    end
  end
  if failure then
    error(failure, 0)
  end
  return results
end

----------------------------------------------------------------------------------------------- timers and signals

function methods.sleep(self, seconds)
  local run = enter(self, "sleep")
  options.seconds("ctx:sleep", "seconds", seconds, 2)
  local number = next_number(run, "timer")
  local asked = "timer #" .. number
  local record = run.records.timer[number]
  if record and record.wait then
    fail_non_deterministic(history.mismatch(record, number, asked))
  end
  record = recorded(run, "timer", number, nil, asked)
  if not record then
    record = { asked = true }
    run.records.timer[number] = record
    if not run.cancel then
      command(run, '{"type":"ScheduleTimer","seq":' .. number .. ',"duration_secs":' .. json.encode(seconds) .. "}")
    end
  end
  wait(run, closing_event, record, asked)
  run.records.timer[number] = nil
end

-- Checks a wait that the history knows; `timer` is the number of its timer or nil.
local function ask_recorded_wait(run, number, record, name, timer, asked)
  if record.name ~= name or record.timer ~= timer then
    fail_non_deterministic(history.mismatch(record, number, asked))
  end
  if timer then
    recorded(run, "timer", timer, nil, asked)
  end
  recorded(run, "wait", number, name, asked)
end

local function wait_commands(run, name, number, timer, timeout)
  if run.cancel then
    return
  end
  if timer then
    command(run, '{"type":"ScheduleTimer","seq":' .. timer .. ',"duration_secs":' .. json.encode(timeout) .. "}")
  end
  command(run, '{"type":"WaitForSignal","seq":' .. number .. ',"name":' .. json.encode(name)
    .. (timer and ',"timer_seq":' .. timer or "") .. "}")
end

-- The earlier of the signal and the time-out of a wait.
local function signal_or_timeout(state)
  local signal = history.next_signal(state.run, state.name)
  local timer = state.timer
  if signal and not (timer and timer.done and timer.done < signal.seq) then
    state.signal = signal
    return signal.seq, signal.at
  end
  state.signal = nil
  if timer and timer.done then
    return timer.done, timer.at
  end
end

-- Asks for the wait: its state for signal_or_timeout, with commands when it has to wait and is new.
local function begin_wait(run, name, number, timer, timeout, asked)
  local state = { run = run, name = name }
  local record = run.records.wait[number]
  if record then
    ask_recorded_wait(run, number, record, name, timer, asked)
    state.timer = timer and run.records.timer[timer]
    return state
  end
  local stray = timer and run.records.timer[timer]
  if stray then
    fail_non_deterministic(history.mismatch(stray, timer, asked))
  end
  if not history.next_signal(run, name) then
    run.records.wait[number] = { name = name, timer = timer, asked = true }
    if timer then
      state.timer = { wait = number, asked = true }
      run.records.timer[timer] = state.timer
    end
    wait_commands(run, name, number, timer, timeout)
  end
  return state
end

function methods.wait_for_signal(self, name, opts)
  local run = enter(self, "wait_for_signal")
  options.name("ctx:wait_for_signal", "name", name, 2)
  local timeout = options.timeout("ctx:wait_for_signal", opts, 2)
  local number = next_number(run, "wait")
  local timer = timeout and next_number(run, "timer")
  local asked = "wait #" .. number .. " '" .. name .. "'" .. (timer and " with time-out" or " without time-out")
  local state = begin_wait(run, name, number, timer, timeout, asked)
  wait(run, signal_or_timeout, state, asked)
  run.records.wait[number] = nil
  if timer then
    run.records.timer[timer] = nil
  end
  if not state.signal then
    return nil, "timeout"
  end
  history.consume_signal(run, name)
  if state.timer and not state.timer.done and not state.timer.cancelled then
    command(run, '{"type":"CancelTimer","seq":' .. timer .. "}")
  end
  return value_or_nil(state.signal.payload)
end

-------------------------------------------------------------------------------------------------------- children

-- A fresh copy of the result at every call: a child id used twice gives its first outcome both times.
local function child_result(record)
  record.text = record.text or json.encode(record.value)
  if not record.text then
    return value_or_nil(record.value)
  end
  return value_or_nil(json.decode(record.text))
end

function methods.start_child_workflow(self, workflow_type, opts)
  local run = enter(self, "start_child_workflow")
  options.name("ctx:start_child_workflow", "workflow type", workflow_type, 2)
  local id, members = options.child("ctx:start_child_workflow", opts, 2)
  local asked = "child '" .. id .. "' of type '" .. workflow_type .. "'"
  local record = recorded(run, "child", id, workflow_type, asked)
  if not record then
    record = { name = workflow_type, asked = true }
    run.records.child[id] = record
    if not run.cancel then
      command(run, '{"type":"StartChildWorkflow","workflow_type":' .. json.encode(workflow_type)
        .. ',"workflow_id":' .. json.encode(id) .. members .. "}")
    end
  end
  wait(run, closing_event, record, asked)
  if record.failure then
    error("child workflow '" .. id .. "' failed: " .. record.failure, 0)
  end
  return child_result(record)
end

----------------------------------------------------------------------------------------- calls that do not wait

-- Runs the function of a side effect outside of workflow mode; returns its JSON text or nil and an error text.
local function run_side_effect(run, fn)
  local started = host.monotonic()
  mode.side_effect = true
  local ok, value = mode.outside(fn)
  mode.side_effect = false
  run.deadline = run.deadline + (host.monotonic() - started)
  if not ok then
    return nil, text.of_error(value)
  end
  local encoded, reason = json.encode(value)
  if not encoded then
    return nil, "side effect value: " .. reason
  end
  return encoded
end

function methods.side_effect(self, name, fn)
  local run = enter(self, "side_effect")
  options.name("ctx:side_effect", "name", name, 2)
  if type(fn) ~= "function" then
    error("ctx:side_effect: function expected, got " .. type(fn), 2)
  end
  local number = next_number(run, "side_effect")
  local record = recorded(run, "side_effect", number, name, "side effect #" .. number .. " '" .. name .. "'")
  run.records.side_effect[number] = nil
  if record then
    if record.failure then
      error(record.failure, 0)
    end
    return value_or_nil(record.value)
  end
  local encoded, failure = run_side_effect(run, fn)
  command(run, '{"type":"RecordSideEffect","seq":' .. number .. ',"name":' .. json.encode(name)
    .. (failure and ',"error":' .. json.encode(failure) or ',"value":' .. encoded) .. "}")
  if failure then
    error(failure, 0)
  end
  return value_or_nil(json.decode(encoded)) -- what replays will see, not the value itself
end

function methods.register_query(self, name, fn)
  local run = enter(self, "register_query")
  options.name("ctx:register_query", "name", name, 2)
  if type(fn) ~= "function" then
    error("ctx:register_query: function expected, got " .. type(fn), 2)
  end
  run.queries[name] = fn
end

function methods.upsert_search_attributes(self, patch)
  local run = enter(self, "upsert_search_attributes")
  local encoded = options.object("ctx:upsert_search_attributes", "patch", patch, 2)
  local number = next_number(run, "upsert")
  local record = recorded(run, "upsert", number, nil, "upsert #" .. number)
  run.records.upsert[number] = nil
  if not record then
    command(run, '{"type":"UpsertSearchAttributes","seq":' .. number .. ',"patch":' .. encoded .. "}")
  end
end

----------------------------------------------------------------------------------------------------------- closing

function methods.continue_as_new(self, input)
  local run = enter(self, "continue_as_new")
  local encoded = options.encoded("ctx:continue_as_new", "input", input, 2)
  yield(CLOSE, "continue_as_new", encoded)
end

function methods.cancel(self, reason)
  enter(self, "cancel")
  if reason ~= nil and type(reason) ~= "string" then
    error("ctx:cancel: reason must be a string, got " .. type(reason), 2)
  end
  yield(CLOSE, "cancel", reason and text.valid_utf8(reason))
end

local META = { __index = methods, __name = "workflow ctx" }

-- The ctx of a run.
function ctx.new(task)
  return setmetatable({
    workflow_id = task.workflow_id,
    run_id = task.run_id,
    namespace = task.namespace,
    workflow_type = task.workflow_type,
    task_queue = task.task_queue,
  }, META)
end

return ctx
