"""The Lua side: running scripts, the workflow client ``assay.workflow``, and the worker.

Lua code runs on the main thread only. The replay core is Lua (``stdlib/``); sockets, threads and
signals are Python. The two meet in ``host.py``: Lua calls plain functions there, with strings and numbers.
"""

from assay.lua.script import run_script

__all__ = ["run_script"]
