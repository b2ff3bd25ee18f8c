"""Random Lua programs, and a simulation that runs each of them in several ways that must not differ.

``programs`` writes the Lua text, ``luaworker`` is a real Lua state in lockstep with the test, ``simulation`` puts
workers, an engine on a frozen clock and the ``world`` around them together.
"""
