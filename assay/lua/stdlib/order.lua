-- pairs and next of workflow code: keys come in the fixed order of keys.lua, so that two replays agree.

local keys = import("keys")
local mode = import("mode")

local order = {}

local raw_next, raw_pairs = next, pairs

-- Per table the sorted keys of a traversal with `next`, and the place of each key in them.
local traversals = setmetatable({}, { __mode = "k" })

function order.pairs(t)
  if not mode.run or type(t) ~= "table" then
    return raw_pairs(t)
  end
  local meta = getmetatable(t)
  if type(meta) == "table" and meta.__pairs ~= nil then
    return raw_pairs(t)
  end
  local list, count = keys.ordered(t)
  local index = 0
  return function()
    while index < count do
      index = index + 1
      local key = list[index]
      local value = rawget(t, key)
      if value ~= nil then
        return key, value
      end
    end
  end, t, nil
end

local function start_traversal(t)
  local list, count = keys.ordered(t)
  local place = {}
  for index = 1, count do
    place[list[index]] = index
  end
  local traversal = { list = list, count = count, place = place }
  traversals[t] = traversal
  return traversal
end

-- The place after `key`, also for a key that was removed meanwhile.
local function place_after(traversal, key)
  local place = traversal.place[key]
  if place then
    return place + 1
  end
  for index = 1, traversal.count do
    if keys.before(key, traversal.list[index]) then
      return index
    end
  end
  return traversal.count + 1
end

-- The smallest key, found without sorting: `next(t)` is the usual test for an empty table.
local function first_key(t)
  local first = raw_next(t)
  for key in raw_next, t, first do
    if keys.before(key, first) then
      first = key
    end
  end
  return first, rawget(t, first)
end

function order.next(t, key)
  if not mode.run or type(t) ~= "table" then
    return raw_next(t, key)
  elseif raw_next(t) == nil then
    return nil
  elseif key == nil then
    traversals[t] = nil
    return first_key(t)
  end
  local traversal = traversals[t]
  if not traversal or not traversal.place[key] then
    traversal = start_traversal(t)
  end
  for at = place_after(traversal, key), traversal.count do
    local found = traversal.list[at]
    local value = rawget(t, found)
    if value ~= nil then
      return found, value
    end
  end
  traversals[t] = nil
  return nil
end

return order
