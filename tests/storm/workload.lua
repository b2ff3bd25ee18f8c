-- A worker of the storm. A run of type "Plan" carries out the steps of its input and returns what each one gave.
-- Activities and side effects leave their effects at the server of the test, which answers with a serial number.

local workflow = require("assay.workflow")

local EFFECTS = env.get("EFFECTS_URL")
-- Every kill costs attempts, and none of them is the fault of the activity.
local RETRY = { max_attempts = 100000, initial_interval_secs = 0.05, backoff_coefficient = 1 }

local function effect(input)
  local answer = http.post(EFFECTS, input)
  assert(answer.status == 200, answer.body)
  return json.parse(answer.body).serial
end

workflow.activity("add", function(ctx, input)
  if ctx.attempt <= input.fails then
    error("attempt " .. ctx.attempt .. " fails")
  end
  if input.pause > 0 then
    sleep(input.pause)
  end
  return effect(input)
end)

workflow.activity("doomed", function(_, input)
  error({ message = "doomed " .. input, non_retryable = true })
end)

local steps = {}

function steps.add(ctx, step)
  return ctx:execute_activity("add", step.input, RETRY)
end

function steps.parallel(ctx, step)
  local list = {}
  for index, input in ipairs(step.inputs) do
    list[index] = { "add", input, RETRY }
  end
  return ctx:execute_parallel(list)
end

function steps.doomed(ctx, step)
  local _, failure = pcall(ctx.execute_activity, ctx, "doomed", step.text, RETRY)
  return failure
end

function steps.side(ctx, step)
  return ctx:side_effect("effect", function() return effect(step.input) end)
end

function steps.side_error(ctx, step)
  local _, failure = pcall(ctx.side_effect, ctx, "broken", function() error(step.text, 0) end)
  return failure
end

-- Whether clock and dice show the same in every replay as when the side effect noted them.
function steps.steady(ctx)
  local now, dice = time(), math.random(1 << 40)
  local noted = ctx:side_effect("steady", function() return { now, dice } end)
  return noted[1] == now and noted[2] == dice
end

function steps.sleep(ctx, step)
  local begin = time()
  ctx:sleep(step.secs)
  return time() - begin > step.secs - 0.001
end

function steps.upsert(ctx, step)
  ctx:upsert_search_attributes(step.patch)
  return true
end

-- The payloads of one signal up to the one that says stop; a time-out is no reason to give up. With `hop` the run
-- continues as new after so many payloads, in the middle of the step.
function steps.signals(ctx, step, state)
  local seen = state.seen or json.array()
  state.seen = nil
  while true do
    local payload, reason = ctx:wait_for_signal(step.name, step.timeout and { timeout = step.timeout })
    if reason ~= "timeout" then
      if payload.stop then
        return seen
      end
      seen[#seen + 1] = payload
      if step.hop and #seen % step.hop == 0 then
        ctx:continue_as_new({ plan = state.plan, at = state.at - 1, out = state.out, seen = seen })
      end
    end
  end
end

function steps.child(ctx, step)
  local ok, value = pcall(ctx.start_child_workflow, ctx, "Plan", { workflow_id = step.id, input = { plan = step.plan } })
  return { ok, value }
end

function steps.forever(ctx)
  ctx:wait_for_signal("never")
end

workflow.define("Plan", function(ctx, input)
  local state = { plan = input.plan, at = input.at or 0, out = input.out or json.array(), seen = input.seen }
  local out = state.out
  ctx:register_query("done", function() return #out end)
  while state.at < #state.plan do
    state.at = state.at + 1
    local step = state.plan[state.at]
    if step.op == "fail" then
      error(step.text, 0)
    elseif step.op == "hop" then
      out[#out + 1] = true
      ctx:continue_as_new(state)
    end
    out[#out + 1] = steps[step.op](ctx, step, state)
  end
  return out
end)

-- The engine may be down at this moment.
while not pcall(workflow.connect, env.get("ASSAY_ENGINE_URL")) do
  sleep(0.1)
end
workflow.listen({ cache_size = tonumber(env.get("CACHE_SIZE")) })
