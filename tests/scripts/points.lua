-- Two workflow types that make a worker send every kind of request.

local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))

workflow.activity("step", function(ctx, input)
  ctx:heartbeat({ at = input })
  sleep(0.05)
  return input
end)

workflow.activity("flaky", function(ctx)
  if ctx.attempt == 1 then error("not yet") end
  return "flaky"
end)

workflow.define("Part", function(_, input) return input end)

workflow.define("Whole", function(ctx, input)
  local stage = "effect"
  ctx:register_query("stage", function() return stage end)
  local token = ctx:side_effect("token", function() return ctx.workflow_id end)
  stage = "activities"
  local options = { max_attempts = 50, initial_interval_secs = 0.05 }
  local results = ctx:execute_parallel({ { "step", 1, options }, { "flaky", nil, options } })
  ctx:upsert_search_attributes({ stage = "timer" })
  stage = "timer"
  ctx:sleep(0.1)
  stage = "child"
  local part = ctx:start_child_workflow("Part", { workflow_id = ctx.workflow_id .. "-part", input = 7 })
  stage = "signal"
  local signal = ctx:wait_for_signal("go", { timeout = 600 })
  if input == 1 then ctx:continue_as_new(2) end
  stage = "done"
  return { token = token, results = results, part = part, signal = signal, last = ctx:execute_activity("step", 2, options) }
end)

workflow.listen({ queue = env.get("QUEUE"), cache_size = 1 })
