-- Who is running: the one place that knows whether Lua code now belongs to a workflow run, to an activity or to
-- neither (main chunk, side-effect function, module body).
--
--   mode.run       the run whose workflow code is running, else nil
--   mode.activity  the activity whose handler is running, else nil
--   mode.base      the coroutine that the scheduler resumed (handlers must not yield from it themselves)
--   mode.query     true while query functions run
--   mode.dead      true once the running workflow code computed for too long; it is stopped then

local mode = { run = nil, activity = nil, base = nil, query = false, dead = false }

-- Runs fn outside of every mode (blocking calls block, nothing is forbidden) and returns what pcall returns.
function mode.outside(fn, ...)
  local run, activity, base = mode.run, mode.activity, mode.base
  mode.run, mode.activity = nil, nil
  local function restore(...)
    mode.run, mode.activity, mode.base = run, activity, base
    return ...
  end
  return restore(pcall(fn, ...))
end

-- A function that raises in workflow code.
function mode.forbid(name, fn)
  return function(...)
    if mode.run then
      error(name .. " is not allowed in workflow code; use an activity or ctx:side_effect", 0)
    end
    return fn(...)
  end
end

return mode
