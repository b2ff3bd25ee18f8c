-- The fixed order of table keys: numbers ascending, strings bytewise, booleans, then the rest.

local sort, type = table.sort, type

local keys = {}

-- Returns the sorted number keys, the sorted string keys, and the type of some other key (nil when there is none).
function keys.sorted(value)
  local numbers, strings, other = {}, {}, nil
  local n, s = 0, 0
  for key in next, value do
    local kind = type(key)
    if kind == "string" then
      s = s + 1
      strings[s] = key
    elseif kind == "number" then
      n = n + 1
      numbers[n] = key
    else
      other = kind
    end
  end
  if s > 1 then
    sort(strings)
  end
  if n > 1 then
    sort(numbers)
  end
  return numbers, strings, other
end

-- All keys in order as one list, and its length.
function keys.ordered(value)
  local list, strings, other = keys.sorted(value)
  local n = #list
  for index = 1, #strings do
    list[n + index] = strings[index]
  end
  n = n + #strings
  if other == nil then
    return list, n
  end
  for _, flag in ipairs({ false, true }) do
    if rawget(value, flag) ~= nil then
      n = n + 1
      list[n] = flag
    end
  end
  for key in next, value do
    local kind = type(key)
    if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
      n = n + 1
      list[n] = key
    end
  end
  return list, n
end

local RANK = { number = 1, string = 2, boolean = 3 }

-- Whether key a comes before key b; nil when the order says nothing (tables, functions, ...).
function keys.before(a, b)
  local rank_a, rank_b = RANK[type(a)] or 4, RANK[type(b)] or 4
  if rank_a ~= rank_b then
    return rank_a < rank_b
  elseif rank_a == 3 then
    return b and not a
  elseif rank_a == 4 then
    return nil
  end
  return a < b
end

return keys
