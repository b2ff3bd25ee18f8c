-- Loads the modules of assay's Lua side in an environment of their own.
--
-- The modules keep copies of the original library functions, so that nothing a script does to its globals can
-- change them. `import "x"` gives the one instance of stdlib/x.lua. Host functions (Python) are reachable only
-- through the table `host` of this environment; scripts never get hold of one.

local host, sources = ...

local function copy(library)
  local out = {}
  for name, value in pairs(library) do
    out[name] = value
  end
  return out
end

local env = { host = host, G = _G }
for _, name in ipairs({
  "assert", "collectgarbage", "dofile", "error", "getmetatable", "ipairs", "load", "loadfile", "next", "pairs",
  "pcall", "print", "rawequal", "rawget", "rawlen", "rawset", "select", "setmetatable", "tonumber", "tostring",
  "type", "xpcall",
}) do
  env[name] = _G[name]
end
for _, name in ipairs({ "coroutine", "debug", "io", "math", "os", "package", "string", "table", "utf8" }) do
  env[name] = copy(_G[name])
end

local modules = {}

function env.import(name)
  local module = modules[name]
  if module == nil then
    local chunk = assert(load(sources[name], "=[assay " .. name .. "]", "t", env))
    module = chunk()
    modules[name] = module
  end
  return module
end

return env.import
