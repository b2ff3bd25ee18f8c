"""Lua in the process of the test: a dressed runtime, and runs driven by hand-made histories."""

from __future__ import annotations

import json
from typing import Any

from assay.lua.host import Host
from assay.lua.runtime import Runtime
from assay.lua.signals import SignalWatch


class Lua:
    """A fresh Lua state as a script sees it, without a script."""

    def __init__(self) -> None:
        self.runtime = Runtime(Host(SignalWatch()).functions())
        self.runtime.imports(b"main")
        self.lua = self.runtime.lua

    def run(self, source: str, *args: Any) -> Any:
        """Run a chunk and return its first result: text, number, boolean or None."""
        result = self.lua.execute(source.encode(), *args)
        return _plain(result[0] if isinstance(result, tuple) else result)

    def all(self, source: str) -> tuple[Any, ...]:
        """Run a chunk and return all its results."""
        result = self.lua.execute(source.encode())
        return tuple(map(_plain, result)) if isinstance(result, tuple) else (_plain(result),)

    def error(self, source: str) -> str:
        """Run a chunk that must raise; the text of its error."""
        wrapped = f"local ok, e = pcall(function(...) {source} end) return ok, tostring(e)"
        raised, text = self.all(wrapped)
        assert raised is False, f"did not raise: {source}"
        return str(text)


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class Failed(Exception):
    """The workflow task failed; ``kind`` and the text."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


class Run:
    """One run of a handler, as a worker holds it. ``handler`` is the Lua text of a function (ctx, input)."""

    def __init__(self, lua: Lua, handler: str, workflow_id: str = "w-1", run_id: str = "run-1") -> None:
        self.lua = lua
        self.closed = False
        self._replay = lua.runtime.imports(b"replay")
        self._json = lua.runtime.imports(b"json")
        task = {
            "workflow_id": workflow_id,
            "run_id": run_id,
            "namespace": "main",
            "workflow_type": "T",
            "task_queue": "default",
        }
        function = lua.lua.execute(b"return " + handler.encode())
        self._run = self._replay[b"new"](self._decode(task), function)

    def turn(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Feed events and let the handler go on; its commands. Raises ``Failed``."""
        outcome = self._replay[b"turn"](self._run, self._decode(events))
        if outcome[b"failure"] is not None:
            raise Failed(outcome[b"failure"].decode(), outcome[b"error"].decode())
        self.closed = bool(outcome[b"closed"])
        commands: list[dict[str, Any]] = json.loads(outcome[b"commands"])
        return commands

    def _decode(self, value: Any) -> Any:
        return self._json[b"decode"](json.dumps(value).encode())


class History:
    """A hand-made history: every method appends one event, a second after the one before."""

    def __init__(self, input: Any = None, start: float = 1_700_000_000.0) -> None:
        self.events: list[dict[str, Any]] = []
        self._now = start
        self.add("WorkflowStarted", input)

    def add(self, event_type: str, payload: Any, *, after: float = 1.0) -> History:
        """Append an event, ``after`` seconds after the last one."""
        if self.events:
            self._now += after
        seq = len(self.events) + 1
        self.events.append({"seq": seq, "event_type": event_type, "payload": payload, "timestamp": self._now})
        return self

    def scheduled(self, seq: int, name: str) -> History:
        return self.add("ActivityScheduled", {"activity_id": seq, "activity_seq": seq, "name": name})

    def completed(self, seq: int, result: Any = None, name: str = "a") -> History:
        return self.add("ActivityCompleted", {"activity_seq": seq, "name": name, "result": result})

    def failed(self, seq: int, error: str, name: str = "a") -> History:
        return self.add("ActivityFailed", {"activity_seq": seq, "name": name, "error": error, "attempts": 1})

    def timer(self, seq: int, duration: float = 1) -> History:
        return self.add("TimerScheduled", {"timer_seq": seq, "fire_at": 0, "duration_secs": duration})

    def fired(self, seq: int) -> History:
        return self.add("TimerFired", {"timer_seq": seq, "fire_at": 0})

    def timer_cancelled(self, seq: int) -> History:
        return self.add("TimerCancelled", {"timer_seq": seq})

    def awaiting(self, seq: int, signal: str, timer: int | None = None) -> History:
        return self.add("WorkflowAwaitingSignal", {"wait_seq": seq, "signal": signal, "timer_seq": timer})

    def signal(self, name: str, payload: Any = None) -> History:
        return self.add("SignalReceived", {"signal": name, "payload": payload})

    def side_effect(self, seq: int, name: str, value: Any = None, error: str | None = None) -> History:
        payload = {"side_effect_seq": seq, "name": name, "value": value, "error": error}
        return self.add("SideEffectRecorded", payload)

    def upserted(self, seq: int, patch: Any) -> History:
        return self.add("SearchAttributesUpserted", {"upsert_seq": seq, "patch": patch})

    def child(self, workflow_id: str, workflow_type: str) -> History:
        return self.add("ChildWorkflowStarted", {"child_workflow_id": workflow_id, "workflow_type": workflow_type})

    def child_completed(self, workflow_id: str, result: Any = None) -> History:
        return self.add("ChildWorkflowCompleted", {"child_workflow_id": workflow_id, "result": result})

    def child_failed(self, workflow_id: str, error: str) -> History:
        return self.add("ChildWorkflowFailed", {"child_workflow_id": workflow_id, "error": error})

    def cancel(self, reason: str | None = None) -> History:
        return self.add("WorkflowCancelRequested", {"reason": reason})

    def record(self, commands: list[dict[str, Any]]) -> History:
        """Append what the engine records for commands of a worker."""
        for command in commands:
            self._record(command)
        return self

    def _record(self, command: dict[str, Any]) -> None:
        match command["type"]:
            case "ScheduleActivity":
                self.scheduled(command["seq"], command["name"])
            case "ScheduleTimer":
                self.timer(command["seq"], command["duration_secs"])
            case "CancelTimer":
                done = ("TimerFired", "TimerCancelled")
                seqs = [event["payload"]["timer_seq"] for event in self.events if event["event_type"] in done]
                if command["seq"] not in seqs:
                    self.timer_cancelled(command["seq"])
            case "WaitForSignal":
                self.awaiting(command["seq"], command["name"], command.get("timer_seq"))
            case "RecordSideEffect":
                self.side_effect(command["seq"], command["name"], command.get("value"), command.get("error"))
            case "UpsertSearchAttributes":
                self.upserted(command["seq"], command["patch"])
            case "StartChildWorkflow":
                self.child(command["workflow_id"], command["workflow_type"])


#: a Lua state that tests may share when they leave no globals behind
LUA = Lua()


def play(handler: str, history: History | None = None) -> list[dict[str, Any]]:
    """The commands of a from-scratch replay of a function(ctx, input) with this body."""
    return Run(LUA, f"function(ctx, input) {handler} end").turn((history or History()).events)


def result_of(handler: str, history: History | None = None) -> Any:
    """The result of a handler that completes."""
    command = play(handler, history)[-1]
    assert command["type"] == "CompleteWorkflow", command
    return command["result"]


def error_of(handler: str, history: History | None = None) -> str:
    """The error of a handler that fails the run."""
    command = play(handler, history)[-1]
    assert command["type"] == "FailWorkflow", command
    return str(command["error"])


def types(commands: list[dict[str, Any]]) -> list[str]:
    return [command["type"] for command in commands]
