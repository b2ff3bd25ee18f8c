-- Control flow of handlers: coroutines, protected calls, blocking host operations, and the guard against workflow
-- code that computes without end.
--
-- A blocking operation of an activity yields BLOCK and the id of the operation up to the scheduler, through all
-- coroutines that the activity made itself: the `resume` of scripts passes BLOCK on and comes back with the outcome.

local mode = import("mode")

local create, resume, yield, running = coroutine.create, coroutine.resume, coroutine.yield, coroutine.running
local isyieldable = coroutine.isyieldable
local raw_pcall, raw_xpcall = pcall, xpcall
local monotonic = host.monotonic

local control = { BLOCK = {}, script = {} }

local BLOCK = control.BLOCK
local HOOK_INSTRUCTIONS = 500000
local STOPPED = "workflow code computed for more than %s s without reaching a ctx wait"

------------------------------------------------------------------------------------------- the deadlock guard

control.deadlock_secs = 10

local function stop_endless_code()
  local run = mode.run
  if run and monotonic() > run.deadline then
    mode.dead = true
    error(string.format(STOPPED, control.deadlock_secs), 0)
  end
end

-- Called at every ctx wait: the code gets its full time again.
function control.reached_wait(run)
  run.deadline = monotonic() + control.deadlock_secs
end

-- A coroutine for workflow code, watched by the guard.
function control.create_watched(fn)
  local co = create(fn)
  debug.sethook(co, stop_endless_code, "", HOOK_INSTRUCTIONS)
  return co
end

-- Protected calls of scripts must not swallow the stop.
local function checked(...)
  if mode.dead then
    error((select(2, ...)), 0)
  end
  return ...
end

function control.script.pcall(...)
  return checked(raw_pcall(...))
end

function control.script.xpcall(...)
  return checked(raw_xpcall(...))
end

------------------------------------------------------------------------------------------- blocking operations

-- The results of a host function, or "<name> failed: <cause>" raised.
function control.outcome(name, ok, ...)
  if not ok then
    error(name .. " failed: " .. (...), 0)
  end
  return ...
end

local outcome = control.outcome

local function raise_unyieldable(name)
  error(name .. " cannot wait inside a callback of a C function such as table.sort or string.gsub", 0)
end

-- Runs the host operation `op`. In an activity only that activity waits; elsewhere the call simply blocks.
-- Raises "<name> failed: <cause>".
function control.blocking(name, op, ...)
  if not mode.activity then
    return outcome(name, host.call(op, ...))
  end
  if not isyieldable() then
    raise_unyieldable(name)
  end
  return outcome(name, yield(BLOCK, host.submit(op, ...)))
end

-- Like blocking, but returns ok and the results instead of raising.
function control.blocking_try(name, op, ...)
  if not mode.activity then
    return host.call(op, ...)
  end
  if not isyieldable() then
    raise_unyieldable(name)
  end
  return yield(BLOCK, host.submit(op, ...))
end

-- Suspends the running activity (or blocks) for a time in seconds.
function control.sleep(seconds)
  if not mode.activity then
    host.sleep(seconds)
    return
  end
  if not isyieldable() then
    raise_unyieldable("sleep")
  end
  yield(BLOCK, host.start_timer(seconds))
end

------------------------------------------------------------------------------------------- coroutines of scripts

local script_coroutine = {
  close = coroutine.close,
  isyieldable = coroutine.isyieldable,
  running = coroutine.running,
  status = coroutine.status,
}
control.script.coroutine = script_coroutine

function script_coroutine.create(fn)
  if mode.run then
    if type(fn) ~= "function" then
      error("bad argument #1 to 'create' (function expected)", 2)
    end
    return control.create_watched(fn)
  end
  return create(fn)
end

-- Passes a blocking operation of an inner coroutine on to the scheduler and its outcome back in.
local function settle(co, ok, ...)
  if mode.dead then
    error((...), 0)
  end
  if (...) ~= BLOCK then
    return ok, ...
  end
  if not isyieldable() then
    raise_unyieldable("a blocking call in a coroutine")
  end
  return settle(co, resume(co, yield(...)))
end

function script_coroutine.resume(co, ...)
  return settle(co, resume(co, ...))
end

local function unwrap(co, ok, ...)
  if ok then
    return ...
  end
  if coroutine.status(co) == "dead" then
    coroutine.close(co)
  end
  error((...), 0)
end

function script_coroutine.wrap(fn)
  local co = script_coroutine.create(fn)
  return function(...)
    return unwrap(co, settle(co, resume(co, ...)))
  end
end

function script_coroutine.yield(...)
  if mode.base and running() == mode.base then
    error("attempt to yield from outside a coroutine", 2)
  end
  return yield(...)
end

return control
