-- Checks of what workflow code passes to ctx methods. Everything raises at the call, before any command exists.

local json = import("json")
local text = import("text")

local options = {}

-- As the engine stores it: in 32 bits.
local function whole_number(value)
  local number = math.type(value) and math.tointeger(value)
  if number and number > 2147483647 then
    return nil, "an integer of at most 2147483647"
  end
  return number and number >= 1 and number, "an integer of 1 or more"
end

local function at_least(minimum)
  return function(value)
    local fine = math.type(value) and value >= minimum and value < math.huge
    return fine and value, "a finite number of " .. minimum .. " or more"
  end
end

local function above_zero(value)
  local fine = math.type(value) and value > 0 and value < math.huge
  return fine and value, "a finite number above 0"
end

local function name(value)
  local problem = text.name_problem(value)
  return not problem and value, "a name of 1 to 255 printable characters"
end

local ACTIVITY = {
  { "task_queue", name },
  { "max_attempts", whole_number },
  { "initial_interval_secs", at_least(0) },
  { "backoff_coefficient", at_least(1) },
  { "max_interval_secs", at_least(0) },
  { "start_to_close_secs", above_zero },
  { "heartbeat_timeout_secs", above_zero },
}

local CHILD = {
  { "task_queue", name },
  { "execution_timeout_secs", above_zero },
}

local CHILD_NAMES = { workflow_id = true, input = true, search_attributes = true }

local function shown(value)
  return type(value) == "string" and "'" .. text.valid_utf8(value) .. "'" or tostring(value)
end

-- The given options as JSON members (",\"a\":1"), in the order of the rules.
local function members(method, given, rules, level)
  local parts = {}
  for _, rule in ipairs(rules) do
    local option, convert = rule[1], rule[2]
    local value = given[option]
    if value ~= nil then
      local converted, wanted = convert(value)
      if not converted then
        error(method .. ": option '" .. option .. "' must be " .. wanted .. ", got " .. shown(value), level + 1)
      end
      parts[#parts + 1] = ',"' .. option .. '":' .. json.encode(converted)
    end
  end
  return table.concat(parts)
end

local function known(method, given, rules, others, level)
  if type(given) ~= "table" or given == json.null then
    error(method .. ": options must be a table, got " .. tostring(given), level + 1)
  end
  for key in next, given do
    local found = others[key]
    for _, rule in ipairs(rules) do
      found = found or rule[1] == key
    end
    if not found then
      error(method .. ": unknown option '" .. tostring(key) .. "'", level + 1)
    end
  end
end

-- Raises unless value is a legal name; `what` names it in the text.
function options.name(method, what, value, level)
  local problem = text.name_problem(value)
  if problem then
    error(method .. ": " .. what .. ": " .. problem, level + 1)
  end
end

-- The JSON text of a value of the script; raises with the path of what cannot be encoded.
function options.encoded(method, what, value, level)
  local encoded, reason = json.encode(value)
  if not encoded then
    error(method .. ": " .. what .. ": " .. reason, level + 1)
  end
  return encoded
end

-- Activity options as JSON members, "" for none.
function options.activity(method, given, level)
  if given == nil then
    return ""
  end
  known(method, given, ACTIVITY, {}, level + 1)
  local encoded = members(method, given, ACTIVITY, level + 1) -- no tail call: error positions count levels
  return encoded
end

-- Options of start_child_workflow: the id, and the rest as JSON members.
function options.child(method, given, level)
  known(method, given, CHILD, CHILD_NAMES, level + 1)
  options.name(method, "opts.workflow_id", given.workflow_id, level + 1)
  local rest = members(method, given, CHILD, level + 1)
  if given.input ~= nil then
    rest = rest .. ',"input":' .. options.encoded(method, "input", given.input, level + 1)
  end
  if given.search_attributes ~= nil then
    local attributes = options.object(method, "search_attributes", given.search_attributes, level + 1)
    rest = rest .. ',"search_attributes":' .. attributes
  end
  return given.workflow_id, rest
end

-- The JSON text of a table with string keys, for search attributes: they are indexed, which excludes U+0000.
function options.object(method, what, value, level)
  if type(value) ~= "table" or value == json.null then
    error(method .. ": " .. what .. " must be a table, got " .. tostring(value), level + 1)
  end
  for key in next, value do
    if type(key) ~= "string" then
      error(method .. ": " .. what .. " must have string keys, got " .. tostring(key), level + 1)
    end
  end
  local encoded, reason = json.encode_as_object(value)
  if not encoded then
    error(method .. ": " .. what .. ": " .. reason, level + 1)
  elseif string.find(string.gsub(encoded, "\\\\", ""), "\\u0000", 1, true) then
    error(method .. ": " .. what .. " must not contain the character U+0000 in a key or text", level + 1)
  end
  return encoded
end

-- Timed waits: opts.timeout in seconds, or nil.
function options.timeout(method, given, level)
  if given == nil then
    return nil
  end
  known(method, given, { { "timeout" } }, {}, level + 1)
  if given.timeout ~= nil then
    options.seconds(method, "option 'timeout'", given.timeout, level + 1)
  end
  return given.timeout
end

-- Raises unless value is a finite number >= 0.
function options.seconds(method, what, value, level)
  local problem = text.seconds_problem(value)
  if problem then
    error(method .. ": " .. what .. ": " .. problem, level + 1)
  end
end

return options
