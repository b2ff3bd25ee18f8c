-- Dresses the globals of the script: puts the builtins in, takes out what is not there (python, os.execute, bytecode,
-- C modules, most of debug), makes the rest follow the rules of workflow code, and keeps globals that workflow code
-- creates with their run.

local builtins = import("builtins")
local clock = import("clock")
local control = import("control")
local json = import("json")
local mode = import("mode")
local order = import("order")
local random = import("random")

local forbid = mode.forbid
local raw_load, raw_loadfile, raw_setmetatable, raw_getmetatable = load, loadfile, setmetatable, getmetatable

local globals = {}

-- Replaces the content of a library table in place: every reference to it sees the same.
local function refill(library, content)
  for name in next, library do
    library[name] = nil
  end
  for name, value in next, content do
    library[name] = value
  end
end

------------------------------------------------------------------------------------------------- loading of code

local function text_only(chunk_mode)
  if chunk_mode ~= nil and not string.find(tostring(chunk_mode), "t", 1, true) then
    return "attempt to load a binary chunk"
  end
end

local function safe_load(chunk, name, chunk_mode, ...)
  local problem = text_only(chunk_mode)
  if problem then
    return nil, problem
  end
  if select("#", ...) > 0 then
    return raw_load(chunk, name, "t", (...))
  end
  return raw_load(chunk, name, "t", G)
end

local function safe_loadfile(path, chunk_mode, ...)
  local problem = text_only(chunk_mode)
  if problem then
    return nil, problem
  end
  if select("#", ...) > 0 then
    return raw_loadfile(path, "t", (...))
  end
  return raw_loadfile(path, "t", G)
end

local function safe_dofile(path)
  local chunk, problem = safe_loadfile(path)
  if not chunk then
    error(problem, 0)
  end
  return chunk()
end

-------------------------------------------------------------------------------------------------------- require

local searchpath = package.searchpath
local library = G.package

local function search_preload(name)
  local loader = library.preload[name]
  if loader then
    return loader, ":preload:"
  end
  return "no field package.preload['" .. name .. "']"
end

local function search_file(name)
  local path, tried = searchpath(name, library.path)
  if not path then
    return tried
  end
  local chunk, problem = raw_loadfile(path, "t", G)
  if not chunk then
    error("error loading module '" .. name .. "' from file '" .. path .. "':\n\t" .. problem, 0)
  end
  return chunk, path
end

local function find_loader(name)
  local tried = {}
  for _, searcher in ipairs(library.searchers) do
    local loader, extra = searcher(name)
    if type(loader) == "function" then
      return loader, extra
    elseif type(loader) == "string" then
      tried[#tried + 1] = "\n\t" .. loader
    end
  end
  error("module '" .. name .. "' not found:" .. table.concat(tried), 3)
end

-- `built_in` modules win over everything. The body of a module never runs as workflow code: its globals and tables
-- belong to the whole script.
local function make_require(built_in)
  return function(name)
    if type(name) ~= "string" then
      error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2)
    elseif built_in[name] then
      return built_in[name]
    elseif library.loaded[name] ~= nil then
      return library.loaded[name]
    end
    local loader, extra = find_loader(name)
    local ok, value = mode.outside(loader, name, extra)
    if not ok then
      error(value, 0)
    end
    if value ~= nil then
      library.loaded[name] = value
    elseif library.loaded[name] == nil then
      library.loaded[name] = true
    end
    return library.loaded[name], extra
  end
end

------------------------------------------------------------------------------------------------------ libraries

local function dress_os()
  refill(G.os, {
    clock = clock.os_clock,
    date = clock.os_date,
    difftime = os.difftime,
    exit = forbid("os.exit", function(code)
      if code == nil or code == true then
        code = 0
      elseif code == false then
        code = 1
      end
      code = math.tointeger(code) or error("bad argument #1 to 'exit' (integer expected)", 2)
      io.stdout:flush()
      host.exit(code & 255)
    end),
    getenv = builtins.env.get,
    hostname = forbid("os.hostname", function()
      return host.hostname()
    end),
    remove = forbid("os.remove", os.remove),
    rename = forbid("os.rename", os.rename),
    time = clock.os_time,
    tmpname = forbid("os.tmpname", os.tmpname),
  })
end

local function dress_io()
  for _, name in ipairs({ "close", "input", "lines", "open", "output", "read", "tmpfile", "write" }) do
    G.io[name] = forbid("io." .. name, io[name])
  end
  G.io.popen = nil
  local methods = raw_getmetatable(io.stdout).__index
  for _, name in ipairs({ "close", "flush", "lines", "read", "seek", "setvbuf", "write" }) do
    methods[name] = forbid("file:" .. name, methods[name])
  end
end

local function dress_math()
  local raw_random, raw_seed = math.random, math.randomseed
  G.math.random = function(...)
    local run = mode.run
    if not run then
      return raw_random(...)
    end
    run.random = run.random or random.new(run.run_id)
    return random.number(run.random, ...)
  end
  G.math.randomseed = function(...)
    if not mode.run then
      return raw_seed(...)
    end
  end
end

local function dress_metatables()
  local function is_mark(meta)
    return meta == json.ARRAY or meta == json.OBJECT
  end
  function G.getmetatable(value)
    local meta = raw_getmetatable(value)
    if is_mark(meta) then
      return nil
    end
    return meta
  end
  function G.setmetatable(value, meta)
    if value == json.null then
      error("cannot change a protected metatable", 2)
    end
    return raw_setmetatable(value, meta)
  end
end

local function dress_code_loading(built_in)
  G.load, G.loadfile, G.dofile = safe_load, safe_loadfile, safe_dofile
  G.require = make_require(built_in)
  G.string.dump = nil
  library.cpath, library.loadlib = "", nil
  library.searchers = { search_preload, search_file }
  library.loaded.python = nil
  refill(G.debug, { traceback = debug.traceback })
end

-- Globals that workflow code creates live in run.globals; all others in the table of globals itself.
local function keep_globals_of_runs()
  raw_setmetatable(G, {
    __index = function(_, name)
      local run = mode.run
      return run and run.globals[name]
    end,
    __newindex = function(t, name, value)
      local run = mode.run
      if run then
        run.globals[name] = value
      else
        rawset(t, name, value)
      end
    end,
    __metatable = "the table of globals",
  })
  function G.rawset(t, name, value)
    local run = mode.run
    if run and rawequal(t, G) and rawget(G, name) == nil then
      run.globals[name] = value
      return t
    end
    return rawset(t, name, value)
  end
  function G.rawget(t, name)
    local value = rawget(t, name)
    local run = mode.run
    if value == nil and run and rawequal(t, G) then
      return run.globals[name]
    end
    return value
  end
end

-- Makes the environment that scripts see. `built_in` maps module names to modules.
function globals.dress(built_in)
  G.python = nil
  for _, name in ipairs({ "base64", "crypto", "env", "fs", "http", "json", "log", "print", "shell", "sleep" }) do
    G[name] = builtins[name]
  end
  G.time = clock.time
  G.pairs, G.next = order.pairs, order.next
  G.pcall, G.xpcall, G.coroutine = control.script.pcall, control.script.xpcall, control.script.coroutine
  library.loaded.coroutine = G.coroutine
  dress_os()
  dress_io()
  dress_math()
  dress_metatables()
  dress_code_loading(built_in)
  keep_globals_of_runs()
end

return globals
