-- A run with steps, a log, activities that retry, a child, a timer and an approval.
local workflow = require("assay.workflow")

workflow.connect(env.get("ASSAY_ENGINE_URL"))

workflow.define("Pipeline", function(ctx, input)
  local state = {
    status = "running",
    current_step = 1,
    steps = {
      { name = "Build", status = "running" },
      { name = "Approval", status = "waiting" },
      { name = "Deploy", status = "waiting" },
    },
    log = {},
  }
  local function say(step, text)
    state.log[#state.log + 1] = { time = "12:00:0" .. #state.log, msg = text, step = step }
  end
  ctx:register_query("pipeline_state", function() return state end)
  ctx:upsert_search_attributes({ env = input.env or "staging" })
  say(nil, "started")
  ctx:execute_activity("build", { again = input.again or 0 }, { initial_interval_secs = 0.1 })
  state.steps[1].status = "done"
  say(1, "built")
  state.current_step = 2
  state.steps[2].status = "running"
  state.steps[2].actions = { "approve", "reject" }
  local answer = ctx:wait_for_signal("step_action")
  state.steps[2].actions = nil
  state.steps[2].status = answer.action == "approve" and "done" or "cancelled"
  say(2, answer.action .. " by " .. tostring(answer.user))
  if answer.action ~= "approve" then
    state.steps[3].status = "skipped"
    return { deployed = false }
  end
  state.steps[3].status = "Running"
  ctx:start_child_workflow("Child", { workflow_id = input.child, input = {} })
  ctx:sleep(0.05)
  state.steps[3].status = "done"
  say(3, "deployed")
  return { deployed = true, by = answer.user }
end)

workflow.define("Child", function(ctx, input)
  return "child"
end)

-- Publishes whatever the signal `show` brings, until it brings nothing.
workflow.define("Show", function(ctx, input)
  local shown = input
  ctx:register_query("pipeline_state", function() return shown end)
  while true do
    local nextone = ctx:wait_for_signal("show")
    if nextone == nil or nextone == json.null then return "end" end
    shown = nextone
  end
end)

workflow.define("Many", function(ctx, input)
  for at = 1, input.count do
    ctx:side_effect("effect " .. at, function() return at end)
  end
  return "many"
end)

workflow.activity("build", function(ctx, input)
  if ctx.attempt <= input.again then
    error("not yet <b>" .. ctx.attempt .. "</b>")
  end
  return { image = "app:1" }
end)

workflow.listen({ queue = "default", namespace = env.get("TEST_NAMESPACE") })
