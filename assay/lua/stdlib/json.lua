-- JSON with the exact mapping of assay: 1 and 1.0 differ, {} and [] keep their kind, null keeps its place, keys are
-- written in a fixed order (numbers ascending, then strings bytewise), integers have 64 bits.
--
-- `decode` and `encode` return a value or nil and a reason; the script-facing json.parse / json.encode raise instead.

local keys = import("keys")

local byte, find, format, gsub, match, sub = string.byte, string.find, string.format, string.gsub, string.match, string.sub
local concat, math_type, utf8_char, utf8_len = table.concat, math.type, utf8.char, utf8.len
local HUGE = math.huge
local MAX_ENCODE_DEPTH, MAX_DECODE_DEPTH = 128, 1100

-- The hidden metatables that mark a table as array or object.
local ARRAY, OBJECT = {}, {}

local function refuse_index(_, key)
  error("attempt to index json.null (field '" .. tostring(key) .. "')", 2)
end

local null = setmetatable({}, {
  __tostring = function()
    return "null"
  end,
  __index = refuse_index,
  __newindex = refuse_index,
  __name = "json.null",
  __metatable = false,
})

-- What encode and decode raise inside, to tell their own findings from any other error.
local Failure = {}

local function guarded(ok, value, ...)
  if ok then
    return value, ...
  end
  if getmetatable(value) == Failure then
    return nil, value.reason
  end
  error(value, 0)
end

---------------------------------------------------------------------------------------------------------- decode

local function bad(text, at, what)
  if at == nil or at > #text then
    error(setmetatable({ reason = what .. " at the end of the text" }, Failure))
  end
  error(setmetatable({ reason = what .. " at byte " .. at }, Failure))
end

local ESCAPED = {
  [34] = '"', [47] = "/", [92] = "\\", [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t",
}

-- at = position of the backslash of \uXXXX; returns the character and the position after it
local function decode_unicode(text, at)
  local hex = match(text, "^%x%x%x%x", at + 2)
  if not hex then
    bad(text, at, "invalid \\u escape")
  end
  local code = tonumber(hex, 16)
  if code < 0xD800 or code > 0xDFFF then
    return utf8_char(code), at + 6
  end
  local low = match(text, "^\\u(%x%x%x%x)", at + 6)
  low = low and tonumber(low, 16)
  if code > 0xDBFF or not low or low < 0xDC00 or low > 0xDFFF then
    bad(text, at, "unpaired surrogate")
  end
  return utf8_char(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)), at + 12
end

local function decode_escaped_string(text, start, at)
  local parts, n, from = {}, 0, start + 1
  while true do
    local c = at and byte(text, at)
    if not c then
      bad(text, nil, "unfinished string")
    elseif c == 34 then
      parts[n + 1] = sub(text, from, at - 1)
      return concat(parts), at + 1
    elseif c ~= 92 then
      bad(text, at, "control character in a string")
    end
    parts[n + 1] = sub(text, from, at - 1)
    local escape = byte(text, at + 1)
    if escape == 117 then
      parts[n + 2], from = decode_unicode(text, at)
    else
      parts[n + 2] = ESCAPED[escape] or bad(text, at, "invalid escape")
      from = at + 2
    end
    n = n + 2
    at = find(text, '["\\\0-\31]', from)
  end
end

local function decode_string(text, start)
  local stop = find(text, '["\\\0-\31]', start + 1)
  if stop and byte(text, stop) == 34 then
    return sub(text, start + 1, stop - 1), stop + 1
  end
  return decode_escaped_string(text, start, stop)
end

local function in_range(text, start, stop)
  local number = tonumber(sub(text, start, stop))
  if number == HUGE or number == -HUGE then
    bad(text, start, "number out of range")
  end
  return number
end

local function decode_number(text, start)
  local _, stop = find(text, "^-?%d+", start)
  if not stop then
    bad(text, start, "invalid number")
  end
  local zero = byte(text, start) == 45 and start + 1 or start
  if stop > zero and byte(text, zero) == 48 then
    bad(text, start, "number with a leading zero")
  end
  local after = byte(text, stop + 1)
  if after ~= 46 and after ~= 101 and after ~= 69 then
    return in_range(text, start, stop), stop + 1
  end
  if after == 46 then
    _, stop = find(text, "^%.%d+", stop + 1)
    if not stop then
      bad(text, start, "invalid number")
    end
    after = byte(text, stop + 1)
  end
  if after == 101 or after == 69 then
    _, stop = find(text, "^[eE][+-]?%d+", stop + 1)
    if not stop then
      bad(text, start, "invalid number")
    end
  end
  return in_range(text, start, stop), stop + 1
end

local function decode_word(text, start)
  local word = match(text, "^%a+", start)
  if word == "true" then
    return true, start + 4
  elseif word == "false" then
    return false, start + 5
  elseif word == "null" then
    return null, start + 4
  end
  bad(text, start, "unexpected word")
end

local decoders = { [34] = decode_string, [45] = decode_number, [102] = decode_word, [110] = decode_word, [116] = decode_word }
for digit = 48, 57 do
  decoders[digit] = decode_number
end

-- Position and byte of the next character that is not white space.
local function skip(text, at)
  local c = byte(text, at)
  if c and c > 32 then
    return at, c
  end
  at = find(text, "[^ \n\r\t]", at)
  return at, at and byte(text, at)
end

decoders[91] = function(text, at, depth)
  if depth > MAX_DECODE_DEPTH then
    bad(text, at, "nesting too deep")
  end
  local out, n, c = setmetatable({}, ARRAY), 0, nil
  at, c = skip(text, at + 1)
  if c == 93 then
    return out, at + 1
  end
  while true do
    local decode = decoders[c] or bad(text, at, "unexpected character")
    n = n + 1
    out[n], at = decode(text, at, depth + 1)
    at, c = skip(text, at)
    if c == 93 then
      return out, at + 1
    elseif c ~= 44 then
      bad(text, at, "expected ',' or ']'")
    end
    at, c = skip(text, at + 1)
  end
end

decoders[123] = function(text, at, depth)
  if depth > MAX_DECODE_DEPTH then
    bad(text, at, "nesting too deep")
  end
  local out, key, c = setmetatable({}, OBJECT), nil, nil
  at, c = skip(text, at + 1)
  if c == 125 then
    return out, at + 1
  end
  while true do
    if c ~= 34 then
      bad(text, at, "expected a key")
    end
    key, at = decode_string(text, at)
    at, c = skip(text, at)
    if c ~= 58 then
      bad(text, at, "expected ':'")
    end
    at, c = skip(text, at + 1)
    local decode = decoders[c] or bad(text, at, "unexpected character")
    out[key], at = decode(text, at, depth + 1)
    at, c = skip(text, at)
    if c == 125 then
      return out, at + 1
    elseif c ~= 44 then
      bad(text, at, "expected ',' or '}'")
    end
    at, c = skip(text, at + 1)
  end
end

-- Decodes a text from the engine: null stays json.null, so that the caller can tell it from an error.
local function decode_text(text)
  local at, c = skip(text, 1)
  local decode = decoders[c] or bad(text, at, c and "unexpected character" or "nothing")
  local value
  value, at = decode(text, at, 1)
  at = skip(text, at)
  if at then
    bad(text, at, "unexpected character after the value")
  end
  return value
end

local function decode(text)
  return guarded(pcall(decode_text, text))
end

---------------------------------------------------------------------------------------------------------- encode

-- Keys and tables on the way to the value that is being encoded, for error texts and cycles.
local path, stack = {}, {}

local function path_text(depth)
  local parts = {}
  for level = 1, depth do
    local key = path[level]
    if type(key) == "string" and find(key, "^[%a_][%w_]*$") then
      parts[level] = "." .. key
    elseif type(key) == "string" then
      parts[level] = format('["%s"]', key)
    else
      parts[level] = "[" .. tostring(key) .. "]"
    end
  end
  return depth > 0 and " at " .. concat(parts) or ""
end

local function cannot(what, depth)
  error(setmetatable({ reason = what .. path_text(depth) }, Failure))
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
for code = 0, 31 do
  local c = string.char(code)
  ESCAPES[c] = ESCAPES[c] or format("\\u%04x", code)
end

local function encode_string(value, depth)
  if not find(value, '[\0-\31"\\\128-\255]') then
    return '"' .. value .. '"'
  end
  if not utf8_len(value) then
    cannot("cannot encode a string that is not valid UTF-8", depth)
  end
  return '"' .. gsub(value, '[\0-\31"\\]', ESCAPES) .. '"'
end

local function encode_number(value, depth)
  if math_type(value) == "integer" then
    return format("%d", value)
  end
  if value ~= value or value == HUGE or value == -HUGE then
    cannot("cannot encode the number " .. tostring(value), depth)
  end
  local text = format("%.15g", value)
  if tonumber(text) ~= value then
    text = format("%.16g", value)
    if tonumber(text) ~= value then
      text = format("%.17g", value)
    end
  end
  return find(text, "[.e]") and text or text .. ".0"
end

local encode_table

local function encode_value(value, out, n, depth)
  local kind = type(value)
  if kind == "string" then
    out[n + 1] = encode_string(value, depth)
  elseif kind == "number" then
    out[n + 1] = encode_number(value, depth)
  elseif kind == "boolean" then
    out[n + 1] = value and "true" or "false"
  elseif value == nil or value == null then
    out[n + 1] = "null"
  elseif kind == "table" then
    return encode_table(value, out, n, depth + 1)
  else
    cannot("cannot encode a " .. (kind == "thread" and "coroutine" or kind), depth)
  end
  return n + 1
end

local function encode_array(value, length, out, n, depth)
  out[n + 1] = "["
  n = n + 1
  for index = 1, length do
    path[depth] = index
    n = encode_value(value[index], out, n, depth)
    out[n + 1] = ","
    n = n + 1
  end
  if length == 0 then
    out[n + 1] = "]"
    return n + 1
  end
  out[n] = "]"
  return n
end

local function key_text(key, value, depth)
  if type(key) == "string" then
    return encode_string(key, depth)
  end
  local text = math_type(key) == "integer" and format("%d", key) or encode_number(key, depth)
  if rawget(value, text) ~= nil then
    cannot('two keys become the text "' .. text .. '"', depth)
  end
  return '"' .. text .. '"'
end

local function encode_members(value, list, out, n, depth)
  for index = 1, #list do
    local key = list[index]
    path[depth] = key
    out[n + 1] = key_text(key, value, depth)
    out[n + 2] = ":"
    n = encode_value(value[key], out, n + 2, depth)
    out[n + 1] = ","
    n = n + 1
  end
  return n
end

local function encode_object(value, numbers, strings, out, n, depth)
  out[n + 1] = "{"
  local first = n + 1
  n = encode_members(value, numbers, out, first, depth)
  n = encode_members(value, strings, out, n, depth)
  if n == first then
    out[n + 1] = "}"
    return n + 1
  end
  out[n] = "}"
  return n
end

-- The raw content of a table with a metatable of the script: its metamethods are not called here.
local function plain(value)
  local out = {}
  for key, item in next, value do
    out[key] = item
  end
  return out
end

local function too_deep(depth)
  for level = 2, depth do
    for above = 1, level - 1 do
      if stack[above] == stack[level] then
        cannot("cannot encode a cycle", level - 1)
      end
    end
  end
  cannot("cannot encode more than " .. MAX_ENCODE_DEPTH .. " levels", depth - 1)
end

-- The length when the keys are exactly 1..n, else nil.
local function sequence_length(value)
  local length, count = rawlen(value), 0
  for key in next, value do
    if math_type(key) ~= "integer" or key < 1 or key > length then
      return nil
    end
    count = count + 1
  end
  return count == length and length or nil
end

function encode_table(value, out, n, depth)
  stack[depth] = value
  if depth > MAX_ENCODE_DEPTH then
    too_deep(depth)
  end
  local mark = getmetatable(value)
  if mark == ARRAY then
    return encode_array(value, #value, out, n, depth)
  elseif mark ~= nil and mark ~= OBJECT then
    value = plain(value)
  end
  local length = mark ~= OBJECT and sequence_length(value)
  if length then
    return encode_array(value, length, out, n, depth)
  end
  local numbers, strings, other = keys.sorted(value)
  if other then
    cannot("cannot encode a key of type " .. other, depth - 1)
  end
  return encode_object(value, numbers, strings, out, n, depth)
end

local function encode_text(value)
  local out = {}
  local n = encode_value(value, out, 0, 0)
  if n == 1 then
    return out[1]
  end
  return concat(out, "", 1, n)
end

-- The compact JSON text of a value, or nil and the reason with the path of the culprit.
local function encode(value)
  return guarded(pcall(encode_text, value))
end

-- Like encode, for places where the schema wants an object: an unmarked empty table becomes {}.
local function encode_as_object(value)
  if value ~= null and type(value) == "table" and next(value) == nil then
    return "{}"
  end
  return encode(value)
end

------------------------------------------------------------------------------------------------------- for scripts

local function marker(name, mark)
  return function(value)
    if value == nil then
      value = {}
    elseif type(value) ~= "table" or value == null then
      error(name .. ": table expected, got " .. (value == null and "json.null" or type(value)), 2)
    end
    local present = getmetatable(value)
    if present ~= nil and present ~= ARRAY and present ~= OBJECT then
      error(name .. ": the table has a metatable of its own", 2)
    end
    return setmetatable(value, mark)
  end
end

local script = { null = null, array = marker("json.array", ARRAY), object = marker("json.object", OBJECT) }

function script.parse(text)
  if type(text) ~= "string" then
    error("json.parse: string expected, got " .. type(text), 0)
  end
  local _, invalid = utf8_len(text)
  if invalid then
    error("json.parse: invalid UTF-8 at byte " .. invalid, 0)
  end
  local value, reason = decode(text)
  if reason then
    error("json.parse: " .. reason, 0)
  end
  if value == null then
    return nil
  end
  return value
end

function script.encode(value)
  local text, reason = encode(value)
  if reason then
    error("json.encode: " .. reason, 0)
  end
  return text
end

return {
  null = null,
  ARRAY = ARRAY,
  OBJECT = OBJECT,
  array = script.array,
  decode = decode,
  encode = encode,
  encode_as_object = encode_as_object,
  object = script.object,
  script = script,
}
