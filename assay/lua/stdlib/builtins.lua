-- The builtin globals of scripts: env, log, http, fs, shell, crypto, base64, sleep, print. Everything that reaches
-- outside is forbidden in workflow code; http, shell and sleep suspend only the calling activity.

local arguments = import("arguments")
local clock = import("clock")
local control = import("control")
local json = import("json")
local mode = import("mode")
local text = import("text")

local check, options, outcome = arguments.check, arguments.options, control.outcome
local forbid = mode.forbid
local stdout, stderr = io.stdout, io.stderr
local write = stdout.write -- taken before globals.lua forbids it in workflow code

local builtins = { env = {}, log = {}, http = {}, fs = {}, shell = {}, crypto = {}, base64 = {}, json = json.script }

-- Whether output is held back because the running code repeats what history already holds.
local function repeating()
  local run = mode.run
  return run and run.unasked > 0
end

------------------------------------------------------------------------------------------------------ print, log

function builtins.print(...)
  if repeating() then
    return
  end
  local parts = table.pack(...)
  for index = 1, parts.n do
    parts[index] = tostring(parts[index])
  end
  write(stdout, table.concat(parts, "\t", 1, parts.n), "\n")
end

local LINE_BREAKS = { ["\n"] = "\\n", ["\r"] = "\\r" }

-- One diagnostic line on stderr.
function builtins.write_log(level, message)
  local line = string.gsub(message, "[\r\n]", LINE_BREAKS)
  write(stderr, clock.stamp(), " ", level, " ", line, "\n")
end

for _, level in ipairs({ "debug", "info", "warn", "error" }) do
  local label = string.upper(level)
  builtins.log[level] = function(message)
    if not repeating() then
      builtins.write_log(label, text.of_value(message))
    end
  end
end

-------------------------------------------------------------------------------------------------------------- env

function builtins.env.get(name)
  check("env.get", 1, name, "string")
  return host.env_get(name)
end

builtins.env.set = forbid("env.set", function(name, value)
  check("env.set", 1, name, "string")
  check("env.set", 2, value, "string", true)
  outcome("env.set", host.env_set(name, value))
end)

function builtins.env.list()
  local list = json.array()
  for entry in string.gmatch(host.env_list(), "[^\0]+") do
    local key, value = string.match(entry, "^(.-)=(.*)$")
    list[#list + 1] = { key = key, value = value }
  end
  return list
end

------------------------------------------------------------------------------------------------------------- http

local LONGEST = 1000000 -- seconds; more than that cannot be waited for at once

-- Whether a time-out can be used; `name` and `level` as for error.
local function check_timeout(name, timeout, level)
  if not (timeout > 0 and timeout <= LONGEST) then
    error(name .. ": timeout must be a positive number of seconds, at most " .. LONGEST, level + 1)
  end
end

local REQUEST_OPTIONS = { headers = "table", timeout = "number", follow_redirects = "boolean" }

-- The functions of scripts end in a tail call of send: its caller is the script.
local function header_lines(name, headers)
  local lines = {}
  for key, value in next, headers or {} do
    if type(key) ~= "string" or (type(value) ~= "string" and type(value) ~= "number") then
      error(name .. ": headers must map strings to strings", 3)
    elseif string.find(key, "[%c:]") or string.find(tostring(value), "[\r\n\0]") then
      error(name .. ": header '" .. key .. "' contains a control character", 3)
    elseif not string.find(key, "^[%w!#$%%&'*+.^_`|~-]+$") then
      error(name .. ": '" .. text.valid_utf8(key) .. "' is not a header name", 3)
    end
    lines[#lines + 1] = key .. ":" .. tostring(value)
  end
  return table.concat(lines, "\n")
end

local function body_text(name, body)
  if body == nil or type(body) == "string" then
    return body, ""
  elseif type(body) ~= "table" then
    error(name .. ": body must be a string, a table or nil, got " .. type(body), 3)
  end
  local encoded, reason = json.encode(body)
  if not encoded then
    error(name .. ": body: " .. reason, 3)
  end
  return encoded, "application/json"
end

local function send(name, method, url, body, opts)
  local timeout = opts.timeout or 30
  check_timeout(name, timeout, 2)
  local content, content_type = body_text(name, body)
  local status, answer, lines = control.blocking(
    name, "http", method, url, content, content_type, header_lines(name, opts.headers), timeout,
    opts.follow_redirects ~= false
  )
  local headers = {}
  for key, value in string.gmatch(lines, "([^\n:]+):([^\n]*)") do
    headers[key] = value
  end
  return { status = status, body = answer, headers = headers }
end

for _, method in ipairs({ "get", "delete" }) do
  local name = "http." .. method
  builtins.http[method] = forbid(name, function(url, opts)
    check(name, 1, url, "string")
    return send(name, string.upper(method), url, nil, options(name, 2, opts, REQUEST_OPTIONS))
  end)
end

for _, method in ipairs({ "post", "put", "patch" }) do
  local name = "http." .. method
  builtins.http[method] = forbid(name, function(url, body, opts)
    check(name, 1, url, "string")
    return send(name, string.upper(method), url, body, options(name, 3, opts, REQUEST_OPTIONS))
  end)
end

builtins.http.request = forbid("http.request", function(request)
  check("http.request", 1, request, "table")
  local allowed = { method = "string", url = "string", body = "any" }
  for option, kind in next, REQUEST_OPTIONS do
    allowed[option] = kind
  end
  options("http.request", 1, request, allowed)
  if not request.url then
    error("http.request: url is required", 2)
  elseif request.method and not string.find(request.method, "^%a+$") then
    error("http.request: method must consist of letters", 2)
  end
  return send("http.request", string.upper(request.method or "GET"), request.url, request.body, request)
end)

---------------------------------------------------------------------------------------------- sleep, shell, files

builtins.sleep = forbid("sleep", function(seconds)
  control.sleep(arguments.seconds("sleep", seconds))
end)

local SHELL_OPTIONS = { cwd = "string", env = "table", stdin = "string", timeout = "number" }

builtins.shell.exec = forbid("shell.exec", function(command, opts)
  check("shell.exec", 1, command, "string")
  opts = options("shell.exec", 2, opts, SHELL_OPTIONS)
  local pairs_of_env = {}
  for key, value in next, opts.env or {} do
    if type(key) ~= "string" or type(value) ~= "string" or string.find(key, "[=\0]") or string.find(value, "\0") then
      error("shell.exec: env must map strings to strings", 2)
    end
    pairs_of_env[#pairs_of_env + 1] = key .. "=" .. value
  end
  if opts.timeout then
    check_timeout("shell.exec", opts.timeout, 2)
  end
  local status, output, errors, timed_out = control.blocking(
    "shell.exec", "shell", command, opts.cwd, table.concat(pairs_of_env, "\0"), opts.stdin, opts.timeout
  )
  return { status = status, stdout = output, stderr = errors, timed_out = timed_out }
end)

builtins.fs.read = forbid("fs.read", function(path)
  check("fs.read", 1, path, "string")
  return outcome("fs.read", host.fs_read(path))
end)

builtins.fs.write = forbid("fs.write", function(path, content)
  check("fs.write", 1, path, "string")
  check("fs.write", 2, content, "string")
  outcome("fs.write", host.fs_write(path, content))
end)

builtins.fs.exists = forbid("fs.exists", function(path)
  check("fs.exists", 1, path, "string")
  return outcome("fs.exists", host.fs_exists(path))
end)

builtins.fs.remove = forbid("fs.remove", function(path)
  check("fs.remove", 1, path, "string")
  outcome("fs.remove", host.fs_remove(path))
end)

---------------------------------------------------------------------------------------------------- crypto, base64

function builtins.crypto.hash(data, algorithm)
  check("crypto.hash", 1, data, "string")
  check("crypto.hash", 2, algorithm, "string", true)
  return outcome("crypto.hash", host.hash(data, algorithm or "sha256"))
end

function builtins.crypto.hmac(key, data, algorithm)
  check("crypto.hmac", 1, key, "string")
  check("crypto.hmac", 2, data, "string")
  check("crypto.hmac", 3, algorithm, "string", true)
  return outcome("crypto.hmac", host.hmac(key, data, algorithm or "sha256"))
end

builtins.crypto.random = forbid("crypto.random", function(length)
  length = length == nil and 32 or length
  check("crypto.random", 1, length, "number")
  local count = math.tointeger(length)
  if not count or count < 0 or count > 1 << 24 then
    error("crypto.random: length must be an integer of 0 or more", 2)
  end
  return host.random_text(count)
end)

builtins.crypto.uuid = forbid("crypto.uuid", function()
  return host.uuid()
end)

function builtins.base64.encode(data)
  check("base64.encode", 1, data, "string")
  return host.base64_encode(data)
end

function builtins.base64.decode(data)
  check("base64.decode", 1, data, "string")
  return outcome("base64.decode", host.base64_decode(data))
end

return builtins
