-- Prepares the globals and gives the host the function that runs a script.

local globals = import("globals")
local control = import("control")
local text = import("text")
local workflow = import("workflow")

-- The levels of the runtime itself say nothing about the script.
local function with_traceback(value)
  local levels = string.gsub(debug.traceback("", 2), "\n\t%[assay [^\n]*", "")
  return text.of_error(value) .. levels
end

globals.dress({ ["assay.workflow"] = workflow })

-- Runs the script text; `arg` holds its arguments (and the path at 0). Returns true, or false and an error text.
local function run(source, path, search_path, deadlock_secs, arg)
  control.deadlock_secs = deadlock_secs
  io.stdout:setvbuf("line")
  G.package.path = search_path
  rawset(G, "arg", arg)
  local chunk, problem = load(source, "@" .. path, "t", G)
  if not chunk then
    return false, problem
  end
  local ok, message = xpcall(chunk, with_traceback, table.unpack(arg))
  io.stdout:flush()
  if ok then
    return true
  end
  return false, message
end

return run
