-- math.random of workflow code: one xoshiro256** generator per run, seeded from its run id.

local random = {}

local function rotate(x, k)
  return (x << k) | (x >> (64 - k))
end

-- splitmix64, which spreads a seed over the four words of the state
local function spread(seed)
  seed = seed + 0x9E3779B97F4A7C15
  local z = seed
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return seed, z ~ (z >> 31)
end

-- A generator whose numbers depend on `text` alone.
function random.new(text)
  local seed = -3750763034362895579
  for index = 1, #text do
    seed = (seed ~ string.byte(text, index)) * 1099511628211
  end
  local state = {}
  for word = 1, 4 do
    seed, state[word] = spread(seed)
  end
  return state
end

local function next_bits(state)
  local s1, s2, s3, s4 = state[1], state[2], state[3], state[4]
  local result = rotate(s2 * 5, 7) * 9
  local t = s2 << 17
  s3 = s3 ~ s1
  s4 = s4 ~ s2
  state[2] = s2 ~ s3
  state[1] = s1 ~ s4
  state[3] = s3 ~ t
  state[4] = rotate(s4, 45)
  return result
end

-- An unbiased integer in 0..range (as unsigned 64-bit numbers).
local function below(state, range)
  if range & (range + 1) == 0 then
    return next_bits(state) & range
  end
  local mask = range
  for shift = 0, 5 do
    mask = mask | (mask >> (1 << shift))
  end
  local bits
  repeat
    bits = next_bits(state) & mask
  until math.ult(bits, range) or bits == range
  return bits
end

local function integer(value, index)
  local result = math.tointeger(value)
  if not result or type(value) ~= "number" then
    error(string.format("bad argument #%d to 'random' (number has no integer representation)", index), 3)
  end
  return result
end

-- math.random(), (m) and (m, n) as in Lua.
function random.number(state, ...)
  local count = select("#", ...)
  if count == 0 then
    return (next_bits(state) >> 11) * 2.0 ^ -53
  elseif count > 2 then
    error("wrong number of arguments", 2)
  end
  local low, high = 1, nil
  if count == 1 then
    high = integer((...), 1)
    if high == 0 then
      return next_bits(state)
    end
  else
    low, high = integer((...), 1), integer(select(2, ...), 2)
  end
  if low > high then
    error(string.format("bad argument #%d to 'random' (interval is empty)", count), 2)
  end
  return low + below(state, high - low)
end

return random
