-- Workflow tasks and activities that last until a file appears, and runs that make a lot of traffic.
local workflow = require("assay.workflow")
local gate = env.get("GATE")

workflow.connect(env.get("ASSAY_ENGINE_URL"))

local function hold()
  while not fs.exists(gate) do sleep(0.05) end
  return "open"
end

workflow.define("HoldTask", function(ctx)
  return ctx:side_effect("hold", hold)
end)

workflow.define("HoldActivity", function(ctx)
  return ctx:execute_activity("hold", nil, { initial_interval_secs = 0.2 })
end)

workflow.define("Quick", function(ctx)
  for number = 1, 3 do ctx:execute_activity("quick", number) end
end)

workflow.activity("hold", hold)
workflow.activity("quick", function(_, number) return number end)

workflow.listen({ namespace = env.get("TEST_NAMESPACE") })
