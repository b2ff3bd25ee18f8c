-- Workflows that note in a file what they really do, for tests that kill processes at a chosen moment.
-- A line of the file is one effect: "<what> <workflow id>".

local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))

local function note(text)
  local file = assert(io.open(env.get("EFFECTS"), "a"))
  file:write(text, "\n")
  file:close()
end

-- Keeps the processor busy; workflow code has no clock to measure by.
local function spin(rounds)
  local sum = 0
  for index = 1, rounds do sum = sum + index % 7 end
  return sum
end

workflow.activity("work", function(ctx, input)
  note("begin " .. ctx.workflow_id)
  sleep(input.seconds)
  note("end " .. ctx.workflow_id)
  return { attempt = ctx.attempt, worker = env.get("WORKER") }
end)

workflow.activity("quick", function(ctx, input)
  note("quick " .. ctx.workflow_id)
  return input
end)

-- One activity of input.seconds.
workflow.define("Activity", function(ctx, input)
  return ctx:execute_activity("work", input, { initial_interval_secs = 0.1, max_attempts = 5 })
end)

-- A side effect of input.seconds, recorded together with the activity that follows.
workflow.define("SideEffect", function(ctx, input)
  local token = ctx:side_effect("token", function()
    note("token " .. ctx.workflow_id)
    sleep(input.seconds)
    return crypto.uuid()
  end)
  local answer = ctx:execute_activity("work", { seconds = input.activity_seconds or 0 },
    { initial_interval_secs = 0.1, max_attempts = 5 })
  return { token = token, attempt = answer.attempt }
end)

-- A handler that computes.
workflow.define("Busy", function(ctx, input)
  ctx:register_query("token", function() return ctx.workflow_id end)
  local token = ctx:side_effect("token", function()
    note("token " .. ctx.workflow_id)
    return crypto.uuid()
  end)
  spin(input.rounds)
  return token
end)

workflow.define("Signal", function(ctx)
  local first = ctx:wait_for_signal("go")
  return ctx:execute_activity("quick", first)
end)

-- Counts input.signals signals.
workflow.define("Count", function(ctx, input)
  local seen = {}
  for _ = 1, input.signals do
    seen[#seen + 1] = ctx:wait_for_signal("tick")
  end
  return seen
end)

workflow.define("Timer", function(ctx, input)
  ctx:sleep(input.seconds)
  return ctx:execute_activity("quick", "slept")
end)

workflow.define("Child", function(ctx, input)
  return ctx:execute_activity("quick", input)
end)

-- A bit of everything, step by step.
workflow.define("Everything", function(ctx, input)
  local stage = "effect"
  ctx:register_query("stage", function() return stage end)
  local token = ctx:side_effect("token", function()
    note("token " .. ctx.workflow_id)
    return crypto.uuid()
  end)
  stage = "activity"
  local first = ctx:execute_activity("quick", 1, { initial_interval_secs = 0.1, max_attempts = 10 })
  ctx:upsert_search_attributes({ first = first })
  stage = "timer"
  ctx:sleep(0.2)
  stage = "child"
  local child = ctx:start_child_workflow("Child", { workflow_id = ctx.workflow_id .. "-child", input = 2 })
  stage = "signal"
  local signal = ctx:wait_for_signal("go", { timeout = 60 })
  stage = "parallel"
  local list = ctx:execute_parallel({ { "quick", 3 }, { "quick", 4 } })
  stage = "done"
  return { token = token, values = { first, child, signal, list[1], list[2] } }
end)

workflow.listen()
