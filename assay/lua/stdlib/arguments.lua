-- Argument checks of builtins: they raise "bad argument #n to 'name' (...)" with the position of the caller.

local json = import("json")

local arguments = {}

local function kind(value)
  return value == json.null and "json.null" or type(value)
end

-- Raises unless value has the expected type; `optional` lets nil pass. Returns the value.
function arguments.check(name, index, value, expected, optional)
  if (type(value) == expected and value ~= json.null) or (optional and value == nil) then
    return value
  end
  error(string.format("bad argument #%d to '%s' (%s expected, got %s)", index, name, expected, kind(value)), 3)
end

-- Checks a table of options against {name = type}; unknown names raise too. Returns the table ({} for nil).
function arguments.options(name, index, value, allowed)
  if value == nil then
    return {}
  end
  if type(value) ~= "table" or value == json.null then
    error(string.format("bad argument #%d to '%s' (table expected, got %s)", index, name, kind(value)), 3)
  end
  for option, given in next, value do
    local expected = allowed[option]
    if not expected then
      error(string.format("%s: unknown option '%s'", name, tostring(option)), 3)
    elseif expected ~= "any" and (type(given) ~= expected or given == json.null) then
      error(string.format("%s: option '%s' must be a %s, got %s", name, option, expected, kind(given)), 3)
    end
  end
  return value
end

-- Raises unless value is a finite number of seconds >= 0.
function arguments.seconds(name, value)
  local problem = import("text").seconds_problem(value)
  if problem then
    error(name .. ": " .. problem, 3)
  end
  return value
end

return arguments
