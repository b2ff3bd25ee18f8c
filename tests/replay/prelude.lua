-- What every random program builds on. A handler keeps `log`, which becomes its result, and `sum`, a number that
-- depends on everything that was noted and decides where the handler goes.

local workflow = require("assay.workflow")
workflow.connect("http://engine")

starts = 0

local function new_journal(ctx, input)
  starts = starts + 1
  local journal = { log = json.array(), sum = 7, children = 0, types = {}, ctx = ctx, hops = input.hops, depth = input.depth }
  -- Notes any number of values, nil among them.
  function journal.note(...)
    for index = 1, select("#", ...) do
      local text = json.encode((select(index, ...)))
      for position = 1, #text do
        journal.sum = (journal.sum * 31 + string.byte(text, position)) % 1000003
      end
      journal.log[#journal.log + 1] = text
    end
    print(ctx.workflow_id, #journal.log, journal.sum)
  end
  -- A number in 0..count-1.
  function journal.pick(count)
    return journal.sum % count
  end
  -- A new child id.
  function journal.child_id()
    journal.children = journal.children + 1
    return ctx.workflow_id .. "/" .. journal.children
  end
  -- Runs a child, but not too deep; an id that was used before keeps its type.
  function journal.child(workflow_type, id)
    if journal.depth < 2 then
      journal.types[id] = journal.types[id] or workflow_type
      local opts = { workflow_id = id, input = { hops = journal.hops, depth = journal.depth + 1 } }
      opts.execution_timeout_secs = journal.pick(6) == 0 and 40 or nil
      journal.note(pcall(ctx.start_child_workflow, ctx, journal.types[id], opts))
    end
  end
  return journal
end
