-- The workflows of the benchmarks. Their activities do nothing, so that only assay is measured.

local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))

workflow.activity("echo", function(_, input) return input end)

workflow.define("OneActivity", function(ctx, input)
  return ctx:execute_activity("echo", input)
end)

workflow.define("Sequence", function(ctx, input)
  local sum = 0
  for step = 1, input.steps do
    sum = sum + ctx:execute_activity("echo", step)
  end
  return sum
end)

workflow.define("Parallel", function(ctx, input)
  local list = {}
  for index = 1, input.width do
    list[index] = { name = "echo", input = index }
  end
  return ctx:execute_parallel(list)
end)

workflow.define("WaitForSignal", function(ctx)
  return ctx:wait_for_signal("go")
end)

workflow.define("Sleep", function(ctx, input)
  ctx:sleep(input.seconds)
  return "slept"
end)

workflow.listen()
