-- The module assay.workflow: registering handlers, listening, and the management calls, each a thin REST request.

local arguments = import("arguments")
local control = import("control")
local json = import("json")
local mode = import("mode")
local text = import("text")
local worker = import("worker")

local workflow = { schedules = {}, namespaces = {}, workers = {}, queues = {}, api_keys = {} }

-- url and namespace of the connection; nil before connect.
local connection

--------------------------------------------------------------------------------------------------------- requests

local function unreachable(name, cause)
  error("workflow." .. name .. " failed: " .. cause, 0)
end

local function refused(name, status, reason)
  error("workflow." .. name .. " failed: HTTP " .. status .. ": " .. reason, 0)
end

local function encoded(name, value)
  local result, reason = json.encode(value)
  if not result then
    error("workflow." .. name .. ": " .. reason, 0)
  end
  return result
end

-- A request; an answer with the status `missing` or 404 is nil for those that give it.
local function request(name, method, segments, query, body, missing)
  if not connection then
    error("workflow." .. name .. ": call workflow.connect first", 0)
  end
  segments = encoded(name, json.array(segments))
  query = encoded(name, json.object(query or {}))
  body = body and encoded(name, json.object(body))
  local ok, status, answer = control.blocking_try("workflow." .. name, "request", method, segments, query, body)
  if not ok then
    unreachable(name, status)
  elseif missing and (status == 404 or status == missing) then
    return nil
  elseif status >= 400 then
    refused(name, status, answer)
  elseif answer == "" then
    return nil
  end
  local value, reason = json.decode(answer)
  if reason then
    error("workflow." .. name .. " failed: the answer is not JSON: " .. reason, 0)
  elseif value == json.null then
    return nil
  end
  return value
end

-- A management function: forbidden in workflow code, known to texts as workflow.<name>.
local function manage(name, fn)
  local parent, last = string.match(name, "^(.-)%.?([%w_]+)$")
  local home = parent == "" and workflow or workflow[parent]
  home[last] = mode.forbid("workflow." .. name, function(...)
    return fn(name, ...)
  end)
end

------------------------------------------------------------------------------------------------ argument checks

local function bad(name, what)
  error("workflow." .. name .. ": " .. what, 0)
end

local function kind_of(value)
  return value == json.null and "json.null" or type(value)
end

local function need_text(name, what, value)
  if type(value) ~= "string" then
    bad(name, what .. " must be a string, got " .. kind_of(value))
  elseif value == "" then
    bad(name, what .. " must not be empty")
  end
  return value
end

local function optional_text(name, what, value)
  if value ~= nil and type(value) ~= "string" then
    bad(name, what .. " must be a string, got " .. kind_of(value))
  end
  return value
end

-- A copy of the given table of fields; `allowed` maps names to types ("any" for all), `required` lists names.
local function fields(name, given, allowed, required)
  if given == nil then
    given = {}
  elseif type(given) ~= "table" or given == json.null then
    bad(name, "options must be a table, got " .. kind_of(given))
  end
  local out = {}
  for key, value in next, given do
    local expected = allowed[key]
    if not expected then
      bad(name, "unknown field '" .. tostring(key) .. "'")
    elseif expected ~= "any" and kind_of(value) ~= expected then
      bad(name, "'" .. key .. "' must be a " .. expected .. ", got " .. kind_of(value))
    end
    out[key] = value
  end
  for _, key in ipairs(required or {}) do
    if out[key] == nil then
      bad(name, "'" .. key .. "' is required")
    end
  end
  return out
end

local function as_object(value)
  if value ~= nil and next(value) == nil then
    return json.script.object({})
  end
  return value
end

-- The ?namespace= of calls with a workflow id: only when connect was given one.
local function own_namespace()
  return { namespace = connection and connection.namespace }
end

-- The namespace of a call with opts.namespace.
local function chosen_namespace(name, opts)
  local chosen = fields(name, opts, { namespace = "string" }).namespace
  return { namespace = chosen or (connection and connection.namespace) }
end

---------------------------------------------------------------------------------------------------------- connect

workflow.connect = mode.forbid("workflow.connect", function(url, opts)
  need_text("connect", "url", url)
  opts = fields("connect", opts, { token = "string", namespace = "string" })
  if opts.namespace == "" then
    bad("connect", "namespace must not be empty")
  end
  if not string.find(url, "^https?://[^/]") then
    bad("connect", "url must start with http:// or https://, got '" .. text.valid_utf8(url) .. "'")
  end
  local ok, status, reason = control.blocking_try("workflow.connect", "connect", url, opts.token)
  if not ok then
    unreachable("connect", status)
  elseif status >= 400 then
    refused("connect", status, reason)
  end
  connection = { namespace = opts.namespace }
end)

-------------------------------------------------------------------------------------------------------- workflows

local START = {
  workflow_type = "string", workflow_id = "string", namespace = "string", input = "any", task_queue = "string",
  search_attributes = "table", execution_timeout_secs = "number",
}

manage("start", function(name, opts)
  local body = fields(name, opts, START, { "workflow_type", "workflow_id" })
  body.namespace = body.namespace or own_namespace().namespace
  body.search_attributes = as_object(body.search_attributes)
  return request(name, "POST", { "workflows" }, nil, body)
end)

local LIST = {
  namespace = "string", status = "string", type = "string", search_attrs = "table", limit = "number",
  offset = "number", task_queue = "string", q = "string",
}

manage("list", function(name, opts)
  local query = fields(name, opts, LIST)
  query.namespace = query.namespace or own_namespace().namespace
  if query.search_attrs then
    query.search_attrs = encoded(name, as_object(query.search_attrs))
  end
  return request(name, "GET", { "workflows" }, query)
end)

manage("describe", function(name, id)
  return request(name, "GET", { "workflows", need_text(name, "id", id) }, own_namespace(), nil, 404)
end)

manage("get_events", function(name, id, opts)
  need_text(name, "id", id)
  local query = fields(name, opts, { after_seq = "number", limit = "number", order = "string" })
  query.namespace = own_namespace().namespace
  return request(name, "GET", { "workflows", id, "events" }, query)
end)

manage("get_state", function(name, id, query_name)
  need_text(name, "id", id)
  optional_text(name, "query name", query_name)
  return request(name, "GET", { "workflows", id, "state", query_name }, own_namespace(), nil, 404)
end)

manage("list_children", function(name, id)
  return request(name, "GET", { "workflows", need_text(name, "id", id), "children" }, own_namespace())
end)

manage("signal", function(name, id, signal, payload)
  need_text(name, "id", id)
  need_text(name, "signal name", signal)
  local body = payload ~= nil and { payload = payload } or nil
  return request(name, "POST", { "workflows", id, "signal", signal }, own_namespace(), body)
end)

for _, verb in ipairs({ "cancel", "terminate" }) do
  manage(verb, function(name, id, reason)
    need_text(name, "id", id)
    local body = optional_text(name, "reason", reason) and { reason = reason }
    return request(name, "POST", { "workflows", id, verb }, own_namespace(), body)
  end)
end

manage("continue_as_new", function(name, id, input)
  need_text(name, "id", id)
  local body = input ~= nil and { input = input } or nil
  return request(name, "POST", { "workflows", id, "continue-as-new" }, own_namespace(), body)
end)

-------------------------------------------------------------------------------------------------------- schedules

local SCHEDULE = {
  name = "string", workflow_type = "string", cron_expr = "string", namespace = "string", timezone = "string",
  input = "any", task_queue = "string", overlap_policy = "string",
}

manage("schedules.create", function(name, opts)
  local body = fields(name, opts, SCHEDULE, { "name", "workflow_type", "cron_expr" })
  body.namespace = body.namespace or own_namespace().namespace
  return request(name, "POST", { "schedules" }, nil, body)
end)

manage("schedules.list", function(name, opts)
  return request(name, "GET", { "schedules" }, chosen_namespace(name, opts))
end)

manage("schedules.describe", function(name, schedule, opts)
  need_text(name, "name", schedule)
  return request(name, "GET", { "schedules", schedule }, chosen_namespace(name, opts), nil, 404)
end)

manage("schedules.patch", function(name, schedule, patch, opts)
  need_text(name, "name", schedule)
  local body = fields(name, patch, {
    cron_expr = "string", timezone = "string", input = "any", task_queue = "string", overlap_policy = "string",
  })
  return request(name, "PATCH", { "schedules", schedule }, chosen_namespace(name, opts), body)
end)

for _, verb in ipairs({ "pause", "resume" }) do
  manage("schedules." .. verb, function(name, schedule, opts)
    need_text(name, "name", schedule)
    return request(name, "POST", { "schedules", schedule, verb }, chosen_namespace(name, opts))
  end)
end

manage("schedules.delete", function(name, schedule, opts)
  need_text(name, "name", schedule)
  return request(name, "DELETE", { "schedules", schedule }, chosen_namespace(name, opts))
end)

----------------------------------------------------------------------------- namespaces, workers, queues, api keys

manage("namespaces.create", function(name, namespace)
  return request(name, "POST", { "namespaces" }, nil, { name = need_text(name, "name", namespace) })
end)

manage("namespaces.list", function(name)
  return request(name, "GET", { "namespaces" })
end)

for _, verb in ipairs({ "describe", "stats" }) do
  manage("namespaces." .. verb, function(name, namespace)
    -- 422: no namespace can have this name, so it is an unknown one.
    return request(name, "GET", { "namespaces", need_text(name, "name", namespace) }, nil, nil, 422)
  end)
end

manage("namespaces.delete", function(name, namespace)
  return request(name, "DELETE", { "namespaces", need_text(name, "name", namespace) })
end)

manage("workers.list", function(name, opts)
  return request(name, "GET", { "workers" }, chosen_namespace(name, opts))
end)

manage("queues.stats", function(name, opts)
  return request(name, "GET", { "queues" }, chosen_namespace(name, opts))
end)

manage("api_keys.generate", function(name, label, opts)
  local body = fields(name, opts, { idempotent = "boolean" })
  body.label = optional_text(name, "label", label)
  return request(name, "POST", { "api-keys" }, nil, body)
end)

manage("api_keys.list", function(name)
  return request(name, "GET", { "api-keys" })
end)

manage("api_keys.delete", function(name, prefix)
  return request(name, "DELETE", { "api-keys", need_text(name, "prefix", prefix) })
end)

----------------------------------------------------------------------------------------------------------- worker

local function definer(name, kind)
  return mode.forbid("workflow." .. name, function(defined, handler)
    local problem = text.name_problem(defined)
    if problem then
      bad(name, "name: " .. problem)
    elseif type(handler) ~= "function" then
      bad(name, "handler must be a function, got " .. kind_of(handler))
    elseif worker.is_listening() then
      bad(name, "allowed before workflow.listen only")
    end
    worker.define(kind, defined, handler)
  end)
end

workflow.define = definer("define", "workflow")
workflow.activity = definer("activity", "activity")

local LISTEN = {
  queue = "string", namespace = "string", identity = "string", max_concurrent_workflows = "number",
  max_concurrent_activities = "number", cache_size = "number",
}

local function count(opts, option, default)
  local value = opts[option]
  if value == nil then
    return default
  end
  local number = math.tointeger(value)
  if not number or number < 0 then
    bad("listen", "'" .. option .. "' must be an integer of 0 or more, got " .. tostring(value))
  end
  return number
end

workflow.listen = mode.forbid("workflow.listen", function(opts)
  opts = fields("listen", opts, LISTEN)
  if not connection then
    error("workflow.listen: call workflow.connect first", 0)
  elseif not worker.has_definitions() then
    bad("listen", "define a workflow or an activity first")
  elseif worker.is_listening() then
    bad("listen", "a script may call it once; start the script again")
  end
  worker.listen({
    queue = opts.queue or "default",
    namespace = opts.namespace or connection.namespace or "main",
    identity = opts.identity or host.default_identity(),
    max_concurrent_workflows = count(opts, "max_concurrent_workflows", 10),
    max_concurrent_activities = count(opts, "max_concurrent_activities", 20),
    cache_size = count(opts, "cache_size", 1000),
  })
end)

return workflow
