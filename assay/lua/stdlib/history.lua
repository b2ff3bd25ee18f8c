-- What a run knows of its history: for every command that was recorded its event, for every outcome its value, and
-- how far the code has asked for them.
--
-- A record of an activity, timer, wait, side effect, upsert (by number) or child (by id):
--   seq, event_type   the event that recorded the command (nil: only asked for, not yet in the history)
--   name              activity, side effect: its name; wait: the signal; child: the workflow type (refused: nil)
--   asked             true once the code asked for it
--   done, at          seq and timestamp of the outcome
--   value, failure    the outcome: a decoded value, or an error text
--
-- `run.order` queues the recorded commands (of the kinds where order matters) that were not asked for yet;
-- `run.unasked` counts recorded commands that the code did not ask for yet: above 0 the code repeats the past.

local json = import("json")

local history = {}

-- Tables of the run by kind of command, with the counter of the code.
local NUMBERED = { "activity", "timer", "wait", "side_effect", "upsert" }

-- Kinds of commands that must be asked for in the order of their events.
local ORDERED = { activity = true, timer = true, wait = true, child = true }

-- A run without history. `task` is the decoded workflow task.
function history.new_run(task)
  local run = {
    workflow_id = task.workflow_id,
    run_id = task.run_id,
    seq = 0,
    now = 0,
    unasked = 0,
    order = {},
    order_at = 1,
    order_last = 0,
    records = { child = {} },
    count = {},
    signals = {},
    commands = {},
    queries = {},
    globals = {},
    cancel_raises = 0,
    deadline = 0,
  }
  for _, kind in ipairs(NUMBERED) do
    run.records[kind] = {}
    run.count[kind] = 0
  end
  return run
end

-- Notes the event that recorded command `number` of a kind, which the code may have asked for already.
local function recorded(run, kind, number, event, name)
  local records = run.records[kind]
  local record = records[number]
  if not record then
    if kind ~= "child" and number <= run.count[kind] then
      return nil -- asked for and done with
    end
    record = {}
    records[number] = record
  end
  record.seq, record.event_type, record.name = event.seq, event.event_type, name
  if not record.asked then
    run.unasked = run.unasked + 1
    if ORDERED[kind] then
      run.order_last = run.order_last + 1
      run.order[run.order_last] = { record = record, number = number }
    end
  end
  return record
end

local function closed(run, kind, number, event, value, failure)
  local record = run.records[kind][number]
  if not record and kind == "child" then
    record = recorded(run, kind, number, event, nil) -- refused: its failure is the only event
  end
  if not record or record.done then
    return
  end
  record.done, record.at = event.seq, event.timestamp
  record.value, record.failure = value, failure
  local group = record.group
  if group then
    group.open = group.open - 1
  end
end

local function present(value)
  if value == json.null then
    return nil
  end
  return value
end

local on = {}

function on.WorkflowStarted(run, event, payload)
  run.input, run.now = payload, event.timestamp
end

function on.ActivityScheduled(run, event, payload)
  recorded(run, "activity", payload.activity_seq, event, payload.name)
end

function on.ActivityCompleted(run, event, payload)
  closed(run, "activity", payload.activity_seq, event, payload.result, nil)
end

function on.ActivityFailed(run, event, payload)
  closed(run, "activity", payload.activity_seq, event, nil, payload.error)
end

function on.TimerScheduled(run, event, payload)
  recorded(run, "timer", payload.timer_seq, event, nil)
end

function on.TimerFired(run, event, payload)
  closed(run, "timer", payload.timer_seq, event, nil, nil)
end

function on.TimerCancelled(run, _, payload)
  local record = run.records.timer[payload.timer_seq]
  if record then
    record.cancelled = true
  end
end

function on.SignalReceived(run, event, payload)
  local name = payload.signal
  local queue = run.signals[name]
  if not queue then
    queue = { first = 1, last = 0 }
    run.signals[name] = queue
  end
  queue.last = queue.last + 1
  queue[queue.last] = { seq = event.seq, at = event.timestamp, payload = payload.payload }
end

function on.WorkflowAwaitingSignal(run, event, payload)
  local record = recorded(run, "wait", payload.wait_seq, event, payload.signal)
  local timer = present(payload.timer_seq)
  if record then
    record.timer = timer
  end
  local timer_record = timer and run.records.timer[timer]
  if timer_record then
    timer_record.wait = payload.wait_seq
  end
end

function on.SideEffectRecorded(run, event, payload)
  local record = recorded(run, "side_effect", payload.side_effect_seq, event, payload.name)
  if record then
    record.value, record.failure = payload.value, present(payload.error)
  end
end

function on.SearchAttributesUpserted(run, event, payload)
  recorded(run, "upsert", payload.upsert_seq, event, nil)
end

function on.ChildWorkflowStarted(run, event, payload)
  recorded(run, "child", payload.child_workflow_id, event, payload.workflow_type)
end

function on.ChildWorkflowCompleted(run, event, payload)
  closed(run, "child", payload.child_workflow_id, event, payload.result, nil)
end

function on.ChildWorkflowFailed(run, event, payload)
  closed(run, "child", payload.child_workflow_id, event, nil, payload.error)
end

function on.WorkflowCancelRequested(run, event, payload)
  run.cancel = { seq = event.seq, at = event.timestamp, reason = present(payload.reason) }
end

-- Takes in the next events, in order. Unknown types are ignored.
function history.feed(run, events)
  for index = 1, #events do
    local event = events[index]
    local take = on[event.event_type]
    if take then
      take(run, event, event.payload)
    end
    run.seq = event.seq
  end
end

-- The head of the queue of a signal name, or nil.
function history.next_signal(run, name)
  local queue = run.signals[name]
  return queue and queue[queue.first]
end

function history.consume_signal(run, name)
  local queue = run.signals[name]
  queue[queue.first] = nil
  queue.first = queue.first + 1
end

-- Event seqs of all signals that no wait consumed, ascending.
function history.unconsumed_signals(run)
  local seqs = json.array()
  for _, queue in pairs(run.signals) do
    for index = queue.first, queue.last do
      seqs[#seqs + 1] = queue[index].seq
    end
  end
  table.sort(seqs)
  return seqs
end

----------------------------------------------------------------------------------------------- non-determinism

local SHOWN = {
  ActivityScheduled = function(record, number)
    return "ActivityScheduled #" .. number .. " '" .. record.name .. "'"
  end,
  TimerScheduled = function(record, number)
    return "TimerScheduled #" .. number .. (record.wait and " (time-out of wait #" .. record.wait .. ")" or "")
  end,
  WorkflowAwaitingSignal = function(record, number)
    local timed = record.timer and " with time-out" or " without time-out"
    return "WorkflowAwaitingSignal #" .. number .. " '" .. record.name .. "'" .. timed
  end,
  SideEffectRecorded = function(record, number)
    return "SideEffectRecorded #" .. number .. " '" .. record.name .. "'"
  end,
  SearchAttributesUpserted = function(_, number)
    return "SearchAttributesUpserted #" .. number
  end,
  ChildWorkflowStarted = function(record, id)
    return "ChildWorkflowStarted '" .. id .. "' of type '" .. record.name .. "'"
  end,
  ChildWorkflowFailed = function(_, id)
    return "ChildWorkflowFailed '" .. id .. "'"
  end,
}

-- The text of a mismatch between a recorded command and what the code asked for.
function history.mismatch(record, number, asked)
  local shown = SHOWN[record.event_type](record, number)
  return "non-determinism at event " .. record.seq .. ": history has " .. shown .. ", the code asked for " .. asked
end

-- The first recorded command that the code never asked for, and its number or id.
function history.first_unasked(run)
  local first, number
  for _, records in pairs(run.records) do
    for key, record in pairs(records) do
      if record.seq and not record.asked and (not first or record.seq < first.seq) then
        first, number = record, key
      end
    end
  end
  return first, number
end

-- The text when recorded commands are left over although the code went on to something else; else nil.
function history.leftover(run, asked)
  if run.unasked == 0 then
    return nil
  end
  local record, number = history.first_unasked(run)
  return history.mismatch(record, number, asked)
end

-- Notes that the code asks for a recorded command. Returns the record and number that are due instead when commands
-- that must come in order are asked for out of order, else nil.
function history.ask(run, kind, record)
  if record.asked then
    return nil
  end
  if ORDERED[kind] then
    local due = run.order[run.order_at]
    if due.record ~= record then
      return due.record, due.number
    end
    run.order[run.order_at] = nil
    run.order_at = run.order_at + 1
  end
  record.asked = true
  run.unasked = run.unasked - 1
  return nil
end

return history
