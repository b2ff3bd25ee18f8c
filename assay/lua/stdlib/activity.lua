-- Activity handlers as coroutines: many run at once in one Lua state; each suspends only itself while it waits for the
-- host. `ctx:heartbeat` merges reports that follow each other quickly, and the newest details always arrive before
-- the outcome of a failed attempt.

local builtins = import("builtins")
local control = import("control")
local json = import("json")
local mode = import("mode")
local text = import("text")

local create, resume, status = coroutine.create, coroutine.resume, coroutine.status
local monotonic = host.monotonic

local activity = {}

local LOST = "__ASSAY_ACTIVITY_LOST__"

-- What to do with the outcome of a host operation, by its id.
local waiting = {}
-- ctx of an activity -> the activity
local owners = setmetatable({}, { __mode = "k" })

------------------------------------------------------------------------------------------------------- heartbeat

local function raise_lost(act)
  error(LOST .. ": attempt " .. act.ctx.attempt .. " of activity '" .. act.ctx.name .. "' is no longer current", 0)
end

-- The body of a heartbeat with the newest details, which it takes.
local function heartbeat_body(act)
  local details = act.details
  act.details, act.reported_at = nil, monotonic()
  return '{"worker_id":' .. json.encode(host.worker_id()) .. ',"task_token":' .. json.encode(act.token)
    .. (details and ',"details":' .. details or "") .. "}", details
end

-- Takes in the answer to a heartbeat. Returns an error text when the engine refused it.
local function answered(act, details, ok, code, answer)
  if not ok then
    act.details = act.details or details
    builtins.write_log("WARN", "activity '" .. act.ctx.name .. "': heartbeat not delivered: " .. code)
  elseif code == 200 then
    act.cancel_requested = answer
  elseif code == 404 or code == 409 then
    act.lost = true
  else
    return "ctx:heartbeat failed: HTTP " .. code .. ": " .. answer
  end
end

-- Sends the newest details and takes in the answer; suspends the activity.
local function report(act)
  if host.worker_id() == "" then
    act.lost = true -- the registration is gone, and this attempt with it
    return nil
  end
  local body, details = heartbeat_body(act)
  return answered(act, details, control.blocking_try("ctx:heartbeat", "heartbeat", act.id, body))
end

-- Sends merged details when their time has come, without the handler.
local function report_later(act)
  if act.timer then
    return
  end
  act.timer = host.start_timer(act.reported_at + act.merge_secs - monotonic())
  waiting[act.timer] = function()
    act.timer = nil
    if act.ended or act.lost or not act.pending then
      return
    end
    act.pending = false
    local body, details = heartbeat_body(act)
    waiting[host.submit("heartbeat", act.id, body)] = function(...)
      local problem = answered(act, details, ...)
      if problem then
        builtins.write_log("WARN", problem)
      end
    end
  end
end

local methods = {}

function methods.heartbeat(self, details)
  local act = owners[self]
  if not act or mode.activity ~= act then
    error("ctx:heartbeat cannot be used outside of its activity handler; call it as ctx:heartbeat(...)", 2)
  end
  if details ~= nil then
    local encoded, reason = json.encode(details)
    if not encoded then
      error("ctx:heartbeat: details: " .. reason, 2)
    end
    act.details = encoded
  end
  if act.lost then
    raise_lost(act)
  end
  if act.reported_at and monotonic() - act.reported_at < act.merge_secs then
    act.pending = true
    report_later(act)
    return act.cancel_requested
  end
  act.pending = false
  local problem = report(act)
  if problem then
    error(problem, 0)
  elseif act.lost then
    raise_lost(act)
  end
  return act.cancel_requested
end

local META = { __index = methods, __name = "activity ctx" }

--------------------------------------------------------------------------------------------------------- outcome

-- The JSON members of the result of an attempt.
local function failure_members(value)
  local members = '"error":' .. json.encode(text.of_error(value))
  if type(value) == "table" and value ~= json.null and rawget(value, "non_retryable") == true then
    members = members .. ',"non_retryable":true'
  end
  return members
end

local function outcome_members(ok, value)
  if not ok then
    return failure_members(value)
  end
  local encoded, reason = json.encode(value)
  if not encoded then
    return '"error":' .. json.encode("activity result: " .. reason) .. ',"non_retryable":true'
  end
  return '"result":' .. encoded
end

-- The body of an attempt's coroutine: runs the handler, then delivers details that were merged away.
local function attempt(act, handler, input)
  local ok, value = pcall(handler, act.ctx, input)
  if not ok and act.details and not act.lost then
    pcall(report, act)
  end
  return ok, value
end

local function finish(act, ok, value)
  act.ended = true
  if act.lost then
    host.drop_task(act.token)
  else
    host.task_done(act.token, outcome_members(ok, value))
  end
  activity.on_end(act)
end

-- Resumes an activity until it waits for the host or ends.
local go_on
function go_on(act, ...)
  mode.run, mode.activity, mode.base = nil, act, act.co
  local ok, first, second = resume(act.co, ...)
  mode.activity, mode.base = nil, nil
  if status(act.co) == "dead" then
    if ok then
      finish(act, first, second)
    else
      finish(act, false, first)
    end
  else
    waiting[second] = function(...)
      go_on(act, ...)
    end
  end
end

-- Called when an activity has ended; set by worker.lua.
function activity.on_end(_) end

-- Starts the handler of an activity task. Returns the activity.
function activity.start(task, handler)
  local timeout = task.heartbeat_timeout_secs
  local act = {
    id = task.id,
    token = task.task_token,
    cancel_requested = false,
    merge_secs = type(timeout) == "number" and timeout / 4 or 1,
    co = create(attempt),
  }
  local details = task.heartbeat_details
  if details == json.null then
    details = nil
  end
  act.ctx = setmetatable({
    activity_id = task.id,
    activity_seq = task.activity_seq,
    workflow_id = task.workflow_id,
    name = task.name,
    attempt = task.attempt,
    max_attempts = task.max_attempts,
    heartbeat_details = details,
  }, META)
  owners[act.ctx] = act
  local input = task.input
  if input == json.null then
    input = nil
  end
  go_on(act, act, handler, input)
  return act
end

-- Gives the outcome of a host operation to whoever waits for it.
function activity.wake(operation, ...)
  local take = waiting[operation]
  if take then
    waiting[operation] = nil
    take(...)
  end
end

return activity
