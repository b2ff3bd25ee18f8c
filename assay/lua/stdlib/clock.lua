-- time() and os.time, os.date, os.clock, os.difftime: UTC; in workflow code they follow the history clock.

local arguments = import("arguments")
local mode = import("mode")

local clock = {}

local raw_date, raw_clock = os.date, os.clock
local floor = math.floor

-- Days since 1970-01-01 of a date in the proleptic Gregorian calendar; month in 1..12.
local function days(year, month, day)
  year = month <= 2 and year - 1 or year
  local era = year // 400
  local year_of_era = year - era * 400
  local day_of_year = (153 * (month + (month > 2 and -3 or 9)) + 2) // 5 + day - 1
  return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
end

local function field(date, name, default)
  local value = date[name]
  if value == nil then
    return default or error("field '" .. name .. "' missing in date table", 3)
  end
  local number = math.tointeger(tonumber(value))
  if not number or math.abs(number) > 1 << 31 then
    error("field '" .. name .. "' is not an integer in range", 3)
  end
  return number
end

local function from_table(date)
  local year, month, day = field(date, "year"), field(date, "month"), field(date, "day")
  local hour, min, sec = field(date, "hour", 12), field(date, "min", 0), field(date, "sec", 0)
  year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
  local seconds = days(year, month, 1) * 86400 + (day - 1) * 86400 + hour * 3600 + min * 60 + sec
  for name, value in next, raw_date("!*t", seconds) do
    date[name] = value
  end
  return seconds
end

function clock.time()
  local run = mode.run
  return run and run.now or host.time()
end

function clock.os_time(date)
  if date == nil then
    return floor(clock.time())
  end
  arguments.check("time", 1, date, "table")
  return from_table(date)
end

function clock.os_date(pattern, seconds)
  arguments.check("date", 1, pattern, "string", true)
  pattern = pattern or "%c"
  if string.sub(pattern, 1, 1) ~= "!" then
    pattern = "!" .. pattern
  end
  if seconds == nil then
    seconds = floor(clock.time())
  end
  local ok, result = pcall(raw_date, pattern, seconds)
  if not ok then
    error(result, 2)
  end
  return result
end

function clock.os_clock()
  local run = mode.run
  return run and run.now or raw_clock()
end

-- "2026-04-16T10:00:00Z", for log lines: always the real time.
function clock.stamp()
  return raw_date("!%Y-%m-%dT%H:%M:%SZ")
end

return clock
