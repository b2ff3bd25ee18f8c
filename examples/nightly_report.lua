#!/usr/bin/env assay
-- A report for a cron schedule: collect from several regions at once, pause, publish, and leave
-- search attributes by which the run can be found.
--
--   assay run examples/nightly_report.lua
--
-- ASSAY_ENGINE_URL is the engine's address (default http://127.0.0.1:8080), ASSAY_TOKEN an API key or JWT.

local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL") or "http://127.0.0.1:8080", { token = env.get("ASSAY_TOKEN") })

local REGIONS = { "eu", "us", "asia" }

workflow.define("Report", function(ctx, input)
  local hours = input and input.lookback_hours or 24
  local steps = {
    { name = "Collect", status = "running" },
    { name = "Settle", status = "waiting" },
    { name = "Publish", status = "waiting" },
  }
  ctx:register_query("pipeline_state", function()
    return { steps = steps }
  end)

  -- The clock and random ids differ at every replay; a side effect is recorded once.
  local report_id = ctx:side_effect("report_id", function()
    return os.date("!%Y-%m-%d") .. "-" .. crypto.random(6)
  end)
  ctx:upsert_search_attributes({ report = report_id, stage = "collecting" })

  local collect = {}
  for _, region in ipairs(REGIONS) do
    collect[#collect + 1] = {
      name = "collect", input = { region = region, hours = hours }, opts = { max_attempts = 5 },
    }
  end
  local parts = ctx:execute_parallel(collect)

  steps[1].status, steps[2].status = "done", "running"
  ctx:sleep(input and input.settle_secs or 2) -- late events; survives a restart of worker and engine

  steps[2].status, steps[3].status = "done", "running"
  local orders, revenue = 0, 0
  for _, part in ipairs(parts) do
    orders, revenue = orders + part.orders, revenue + part.revenue
  end
  local published = ctx:execute_activity("publish", { report_id = report_id, orders = orders, revenue = revenue })

  steps[3].status = "done"
  ctx:upsert_search_attributes({ stage = "published" })
  return { report_id = report_id, orders = orders, revenue = revenue, path = published.path }
end)

workflow.activity("collect", function(ctx, input)
  log.info("collecting " .. input.hours .. " hours of " .. input.region)
  sleep(0.2)
  local orders = #input.region * 100 * input.hours
  return { region = input.region, orders = orders, revenue = orders * 25 }
end)

workflow.activity("publish", function(ctx, input)
  local folder = env.get("REPORT_DIR") or "/tmp/assay-reports"
  local path = folder .. "/" .. input.report_id .. ".json"
  fs.write(path, json.encode(input) .. "\n")
  log.info("published " .. path)
  return { path = path }
end)

workflow.listen({ queue = "reports" }) -- blocks
