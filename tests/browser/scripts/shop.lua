-- A shop and its deploys: what the screenshots of the documentation show.
local workflow = require("assay.workflow")

workflow.connect(env.get("ASSAY_ENGINE_URL"))

workflow.define("Deploy", function(ctx, input)
  local steps = {
    { name = "Build", status = "running" },
    { name = "Test", status = "waiting" },
    { name = "Approval", status = "waiting" },
    { name = "Roll out", status = "waiting" },
  }
  local log = {}
  local state = { current_step = 1, steps = steps, log = log }
  ctx:register_query("pipeline_state", function() return state end)
  local function say(step, message)
    log[#log + 1] = { step = step, time = os.date("!%H:%M:%S"), msg = message }
  end

  say(1, "building " .. input.service .. " " .. input.version)
  local built = ctx:execute_activity("build", input)
  say(1, "pushed " .. built.image)
  steps[1].status, steps[2].status, state.current_step = "done", "running", 2
  say(2, "412 tests")
  ctx:execute_activity("test", built, { max_attempts = 5, initial_interval_secs = 0.4, backoff_coefficient = 1.5 })
  say(2, "all passed, at the third attempt")
  ctx:sleep(0.8)
  steps[2].status, steps[3].status, state.current_step = "done", "running", 3
  steps[3].actions = { "approve", "reject" }
  say(3, "waiting for a person")
  ctx:wait_for_signal("step_action")
  return built
end)

workflow.define("Order", function(ctx, input)
  ctx:execute_activity("charge", input, { max_attempts = 1 })
  if input.ship then ctx:wait_for_signal("packed") end
  return { number = input.number, paid = true }
end)

workflow.activity("build", function(ctx, input)
  sleep(0.6)
  return { image = "registry.example.com/" .. input.service .. ":" .. input.version }
end)

workflow.activity("test", function(ctx, input)
  sleep(0.5)
  if ctx.attempt < 3 then error("the test database is not ready") end
  return { passed = 412 }
end)

workflow.activity("charge", function(ctx, input)
  if input.card == "declined" then error("the card was declined") end
  return { receipt = "r-" .. input.number }
end)

workflow.listen({ queue = "default", namespace = env.get("TEST_NAMESPACE") })
