-- The handlers that the browser tests talk to.
local workflow = require("assay.workflow")

workflow.connect(env.get("ASSAY_ENGINE_URL"))

workflow.define("Hello", function(ctx, input)
  return ctx:execute_activity("greet", { name = input and input.name or "nobody" })
end)

workflow.define("Echo", function(ctx, input)
  return input
end)

workflow.define("Fails", function(ctx, input)
  error("it went wrong: <b>&amp;</b>")
end)

workflow.define("WaitForGo", function(ctx, input)
  local payload = ctx:wait_for_signal("go")
  return { got = payload }
end)

workflow.activity("greet", function(ctx, input)
  return { text = "Hello " .. input.name }
end)

workflow.listen({ queue = "default", namespace = env.get("TEST_NAMESPACE") })
