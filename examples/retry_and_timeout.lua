#!/usr/bin/env assay
-- How activities fail and recover: back-off, time-outs, heartbeats and errors that no retry can mend.
--
--   assay run examples/retry_and_timeout.lua
--
-- ASSAY_ENGINE_URL is the engine's address (default http://127.0.0.1:8080), ASSAY_TOKEN an API key or JWT.

local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL") or "http://127.0.0.1:8080", { token = env.get("ASSAY_TOKEN") })

workflow.define("RetryAndTimeout", function(ctx, input)
  local report = {}
  ctx:register_query("report", function() return report end)

  -- Fails twice, then succeeds: tried again after 0.5 s, then after 1 s.
  report.flaky = ctx:execute_activity("flaky_call", { fail_times = 2 }, {
    max_attempts = 5, initial_interval_secs = 0.5, backoff_coefficient = 2,
  })

  -- Hangs in its first attempt. After 1 s that attempt counts as failed and the next one starts.
  -- (An engine that has just started gives every attempt 30 s, so that workers outlive its restart.)
  report.slow = ctx:execute_activity("slow_call", { hang_once = true }, {
    max_attempts = 2, initial_interval_secs = 0.1, start_to_close_secs = 1,
  })

  -- Long work reports where it is. Were its worker killed, the engine would miss the heartbeats and
  -- give the rest, from the last report on, to another worker.
  report.import = ctx:execute_activity("import_rows", { rows = input and input.rows or 20 }, {
    max_attempts = 3, heartbeat_timeout_secs = 5,
  })

  -- A bad card stays bad: the first error is final, and the workflow decides what it means.
  local paid, problem = pcall(function()
    return ctx:execute_activity("charge", { card = "declined" }, { max_attempts = 10 })
  end)
  report.charge = paid and "paid" or problem

  return report
end)

workflow.activity("flaky_call", function(ctx, input)
  if ctx.attempt <= input.fail_times then
    log.warn("flaky_call: attempt " .. ctx.attempt .. " fails")
    error("the other side said 503")
  end
  return { attempts = ctx.attempt }
end)

workflow.activity("slow_call", function(ctx, input)
  if input.hang_once and ctx.attempt == 1 then
    log.warn("slow_call: attempt 1 hangs")
    sleep(60)
  end
  return { attempts = ctx.attempt }
end)

workflow.activity("import_rows", function(ctx, input)
  local first = ctx.heartbeat_details and ctx.heartbeat_details.done + 1 or 1
  for row = first, input.rows do
    sleep(0.05)
    if ctx:heartbeat({ done = row }) then
      error("the run is being cancelled")
    end
  end
  log.info("import_rows: " .. input.rows .. " rows")
  return { rows = input.rows, started_at_row = first }
end)

workflow.activity("charge", function(ctx, input)
  error({ message = "card " .. input.card, non_retryable = true })
end)

workflow.listen({ queue = "examples" }) -- blocks
