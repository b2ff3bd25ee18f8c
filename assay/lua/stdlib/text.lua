-- Values as text: errors (a string stays as it is, a table becomes its message or its JSON) and argument checks.

local json = import("json")

local text = {}

local REPLACEMENT = utf8.char(0xFFFD)

-- The string with every byte that is not part of valid UTF-8 replaced by U+FFFD.
function text.valid_utf8(value)
  local length, invalid = utf8.len(value)
  if length then
    return value
  end
  local parts, from = {}, 1
  while invalid do
    parts[#parts + 1] = string.sub(value, from, invalid - 1) .. REPLACEMENT
    from = invalid + 1
    if from > #value then
      return table.concat(parts)
    end
    length, invalid = utf8.len(value, from)
    if not length and invalid == nil then
      break
    end
  end
  parts[#parts + 1] = string.sub(value, from)
  return table.concat(parts)
end

-- The position that Lua adds to a message, when that lies in the runtime and not in the script.
local OWN_POSITION = "^%[assay [%w_.]+%]:%d+: "

local function to_string(value)
  local ok, result = pcall(tostring, value)
  return ok and result or "a " .. type(value) .. " that cannot be shown"
end

-- The text of an error value.
function text.of_error(value)
  local result
  if type(value) == "table" and value ~= json.null then
    local message = rawget(value, "message")
    result = type(message) == "string" and message or json.encode(value) or to_string(value)
  else
    result = string.gsub(type(value) == "string" and value or to_string(value), OWN_POSITION, "")
  end
  if result == "" then
    return "unknown error"
  end
  return text.valid_utf8(result)
end

-- One line for the log: strings as they are, tables as JSON.
function text.of_value(value)
  if type(value) == "table" and value ~= json.null then
    return json.encode(value) or to_string(value)
  end
  return to_string(value)
end

local CONTROL = "[\0-\31\127]"

-- nil when value is a legal id or name (1..255 printable characters), else what is wrong with it.
function text.name_problem(value)
  if type(value) ~= "string" then
    return "string expected, got " .. (value == json.null and "json.null" or type(value))
  end
  local length = utf8.len(value)
  if not length then
    return "not valid UTF-8"
  elseif length == 0 then
    return "must not be empty"
  elseif length > 255 then
    return "longer than 255 characters"
  elseif value == "." or value == ".." then
    return "'" .. value .. "' is not a name"
  elseif string.find(value, CONTROL) or string.find(value, "\xC2[\x80-\x9F]") then
    return "contains a control character"
  end
  return nil
end

-- nil when value is a finite number >= 0, else what is wrong with it.
function text.seconds_problem(value)
  if type(value) ~= "number" then
    return "number expected, got " .. type(value)
  elseif value ~= value or value == math.huge then
    return "must be finite, got " .. tostring(value)
  elseif value < 0 then
    return "must be 0 or more, got " .. tostring(value)
  end
  return nil
end

return text
