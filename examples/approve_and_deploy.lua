#!/usr/bin/env assay
-- A deploy that waits for a person: build, wait for the signal "approve", deploy.
--
--   assay run examples/approve_and_deploy.lua
--
-- ASSAY_ENGINE_URL is the engine's address (default http://127.0.0.1:8080), ASSAY_TOKEN an API key or JWT.

local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL") or "http://127.0.0.1:8080", { token = env.get("ASSAY_TOKEN") })

workflow.define("ApproveAndDeploy", function(ctx, input)
  local state = { stage = "build", progress = 0 }
  ctx:register_query("pipeline_state", function() return state end)

  local artifact = ctx:execute_activity("build", { ref = input.git_sha })

  state.stage = "awaiting_approval"; state.progress = 0.33
  local approval = ctx:wait_for_signal("approve")

  state.stage = "deploying"; state.progress = 0.66
  ctx:upsert_search_attributes({ approver = approval.by })

  local result = ctx:execute_activity("deploy", {
    image = artifact.image, env = input.target_env, approver = approval.by,
  })

  state.stage = "done"; state.progress = 1.0
  return result
end)

workflow.activity("build", function(ctx, input)
  log.info("building " .. input.ref)
  sleep(0.5) -- compile, test, push
  return { image = "registry.example.com/app:" .. input.ref }
end)

workflow.activity("deploy", function(ctx, input)
  log.info("deploying " .. input.image .. " to " .. input.env .. ", approved by " .. input.approver)
  sleep(0.5) -- roll out, wait until it is healthy
  return { image = input.image, env = input.env, approved_by = input.approver, deployed_at = os.date("!%Y-%m-%dT%H:%M:%SZ") }
end)

workflow.listen({ queue = "deploys" }) -- blocks
