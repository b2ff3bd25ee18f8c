"""A Lua state that works in lockstep with the test: it gets one event at a time and then says what it did.

The state is the real one, with the real standard library and the loop of ``workflow.listen``. Only the way to the
engine is missing: events come from the test, and what the handlers hand back goes to the test.
"""

from __future__ import annotations

import itertools
import threading
from queue import SimpleQueue
from typing import Any

import orjson

from assay.lua.host import Host
from assay.lua.runtime import Runtime
from assay.lua.signals import SignalWatch

ANSWER_SECS = 60.0


class LuaWorker:
    """One worker process, so to speak. ``source`` is a script that listens; ``cache_size`` its argument."""

    def __init__(self, source: str, cache_size: int) -> None:
        #: the body of its registration
        self.registration: dict[str, Any] = {}
        #: members of the results since the last event, by task token
        self.results: dict[str, bytes] = {}
        #: what it asked of the engine: number of the operation, workflow id, last seq
        self.questions: list[tuple[int, str, int]] = []
        self._numbers = itertools.count(1)
        self._events: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._idle: SimpleQueue[str] = SimpleQueue()
        self._runtime = Runtime(self._host())
        self._thread = threading.Thread(target=self._run, args=(source, cache_size), daemon=True)
        self._thread.start()
        self._wait()

    def workflow_task(self, task: dict[str, Any]) -> None:
        """Hand over a workflow task and wait until it is worked off."""
        self.give(b"workflow", orjson.dumps(task))

    def give(self, *event: Any) -> None:
        """Hand over any event of the loop and wait until Lua asks for the next one."""
        self._events.put(event)
        self._wait()

    def close(self) -> int:
        """End the loop; the value of the script's global ``starts``."""
        self._events.put((b"stopped",))
        self._thread.join(ANSWER_SECS)
        return int(self._runtime.lua.globals()[b"starts"])

    def _wait(self) -> None:
        problem = self._idle.get(timeout=ANSWER_SECS)
        assert not problem, problem

    def _run(self, source: str, cache_size: int) -> None:
        _done, message = self._runtime.run(source.encode(), "program.lua", [str(cache_size)])
        self._idle.put(message or "the script came to its end")

    def _host(self) -> dict[str, Any]:
        return {
            **Host(SignalWatch()).functions(),
            "call": lambda _name, *_args: (True, 200, b""),  # connect
            "submit": self._ask,
            "listen": self._listen,
            "leave": lambda: None,
        }

    def _listen(self, table: Any, registration: bytes) -> None:
        self.registration = orjson.loads(registration)
        table[b"next_event"] = self._next_event
        table[b"task_done"] = self._done
        table[b"worker_id"] = lambda: b"worker"

    def _next_event(self) -> tuple[Any, ...]:
        self._idle.put("")
        return self._events.get()

    def _done(self, token: bytes, members: bytes) -> None:
        self.results[token.decode()] = members

    def _ask(self, name: bytes, token: bytes, workflow_id: bytes, last_seq: int) -> int:
        assert name == b"events"
        number = next(self._numbers)
        self.questions.append((number, workflow_id.decode(), last_seq))
        return number
