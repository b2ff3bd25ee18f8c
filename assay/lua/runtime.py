"""A Lua state with assay's standard library loaded.

The state speaks bytes. Host functions are given to the library as a table that scripts never see; they
catch every exception themselves, because lupa would hand the exception object to Lua.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

STDLIB = Path(__file__).with_name("stdlib")

_LOADER = b"function(source, ...) return assert(load(source, '=[assay boot]', 't'))(...) end"


def lua_module() -> Any:
    """lupa's module for Lua 5.5, or 5.4 where 5.5 is missing."""
    try:
        from lupa import lua55
    except ImportError:
        from lupa import lua54

        return lua54
    return lua55


def _no_attributes(_owner: object, _name: object, _setting: bool) -> str:
    raise AttributeError("Python objects have no attributes here")


class Runtime:
    """One Lua state. ``imports(name)`` gives a module of the standard library, mostly for tests."""

    def __init__(self, host: Mapping[str, Callable[..., Any]]) -> None:
        self.lua = lua_module().LuaRuntime(
            encoding=None,
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_filter=_no_attributes,
        )
        sources = self._table({path.stem: path.read_bytes() for path in STDLIB.glob("*.lua")})
        boot = (STDLIB / "boot.lua").read_bytes()
        self.imports = self.lua.eval(_LOADER)(boot, self._table(host), sources)

    def run(
        self,
        source: bytes,
        path: str,
        args: Sequence[str] = (),
        *,
        search_path: str = "./?.lua;./?/init.lua",
        deadlock_secs: float = 10.0,
    ) -> tuple[bool, str]:
        """Run a script's text. Returns True and nothing, or False and the error text with a traceback."""
        import os

        arg = self.lua.table(*map(os.fsencode, args))
        arg[0] = os.fsencode(path)
        run = self.imports(b"main")
        done = run(source, os.fsencode(path), os.fsencode(search_path), deadlock_secs, arg)
        if done is True:
            return True, ""
        return bool(done[0]), (done[1] or b"").decode("utf-8", "replace")

    def _table(self, values: Mapping[str, Any]) -> Any:
        table = self.lua.table()
        for name, value in values.items():
            table[name.encode()] = value
        return table
