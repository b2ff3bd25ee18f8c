"""The functions that the Lua standard library calls. Lua gives and takes bytes, numbers, booleans and nil only.

A function that can fail returns True and its results, or False and an error text; none raises.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import socket
import string
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import orjson

from assay import crashpoints
from assay.client import Unreachable
from assay.lua.heartbeat import Heartbeat
from assay.lua.operations import EngineOperations
from assay.lua.signals import SignalWatch
from assay.lua.turns import Turns

crashpoints.declare("worker.deregister", ":before-send", ":after-answer")

_SHA = ["sha1", "sha224", "sha256", "sha384", "sha512"]
ALGORITHMS = frozenset(["md5", *_SHA, "sha3_224", "sha3_256", "sha3_384", "sha3_512", "blake2b", "blake2s"])
_LETTERS = string.ascii_letters + string.digits


def _text_of(error: BaseException) -> bytes:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if error.filename else ""
        text = f"{name}: {error.strerror}" if name else error.strerror
    return (text or type(error).__name__).encode("utf-8", "replace")


def outcome(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Turn results into (True, ...) and exceptions into (False, text)."""

    @wraps(function)
    def call(*args: Any) -> tuple[Any, ...]:
        try:
            result = function(*args)
        except Exception as error:
            return False, _text_of(error)
        return (True, *result) if isinstance(result, tuple) else (True, result)

    return call


def unfailing(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions that must not fail: an exception is a bug, and ends the process with its traceback and code 1."""

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception:
            traceback.print_exc()
            exit_now(1)

    return call


def _algorithm(name: bytes) -> str:
    text = name.decode("utf-8", "replace").lower()
    if text not in ALGORITHMS:
        raise ValueError(f"unknown algorithm '{text}'; one of {' '.join(sorted(ALGORITHMS))}")
    return text


# -------------------------------------------------------------------------------------------- plain functions


def env_set(name: bytes, value: bytes | None) -> None:
    if not name or b"=" in name or b"\0" in name + (value or b""):
        raise ValueError("a name must not be empty or contain '=', and neither part NUL")
    if value is None:
        os.environb.pop(name, None)
    else:
        os.environb[name] = value


def fs_read(path: bytes) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


def fs_write(path: bytes, content: bytes) -> None:
    target = Path(os.fsdecode(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def fs_exists(path: bytes) -> bool:
    return os.path.lexists(path)


def fs_remove(path: bytes) -> None:
    os.remove(path)


def digest(data: bytes, algorithm: bytes) -> bytes:
    return hashlib.new(_algorithm(algorithm), data, usedforsecurity=False).hexdigest().encode()


def keyed_digest(key: bytes, data: bytes, algorithm: bytes) -> bytes:
    return hmac.new(key, data, _algorithm(algorithm)).hexdigest().encode()


def base64_decode(data: bytes) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"bad base64 text: {str(error).lower()}") from None


def sleep(seconds: float) -> None:
    """Block for any number of seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 86400.0))


def exit_now(code: int) -> NoReturn:
    """End the process as C's exit does, whatever else is running."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def plain_functions() -> dict[str, Callable[..., Any]]:
    """Everything that needs no engine and no state."""
    return {
        "monotonic": time.monotonic,
        "time": time.time,
        "sleep": sleep,
        "exit": exit_now,
        "hostname": lambda: socket.gethostname().encode(),
        "default_identity": lambda: f"assay-worker-{socket.gethostname()}-{os.getpid()}".encode(),
        "env_get": lambda name: os.environb.get(name),
        "env_set": outcome(env_set),
        "env_list": lambda: b"\0".join(b"%s=%s" % item for item in os.environb.items()),
        "fs_read": outcome(fs_read),
        "fs_write": outcome(fs_write),
        "fs_exists": outcome(fs_exists),
        "fs_remove": outcome(fs_remove),
        "hash": outcome(digest),
        "hmac": outcome(keyed_digest),
        "random_text": lambda count: "".join(secrets.choice(_LETTERS) for _ in range(count)).encode(),
        "uuid": lambda: str(uuid.uuid4()).encode(),
        "base64_encode": base64.b64encode,
        "base64_decode": outcome(base64_decode),
    }


class Host:
    """The host functions of one script. ``max_body`` is the engine's limit of a request in bytes."""

    def __init__(self, signals: SignalWatch, max_body: int = 16 * 1024 * 1024) -> None:
        self._signals = signals
        self._max_body = max_body
        self._engine = EngineOperations()
        self._operations = {name: outcome(function) for name, function in self._engine.table().items()}
        self._turns: Turns | None = None
        self._heartbeat: Heartbeat | None = None
        self._pool: ThreadPoolExecutor | None = None

    def functions(self) -> dict[str, Callable[..., Any]]:
        """All host functions by name."""
        own: dict[str, Callable[..., Any]] = {
            "call": self.call,
            "submit": self.submit,
            "listen": self.listen,
            "leave": self.leave,
        }
        return {**plain_functions(), **{name: unfailing(function) for name, function in own.items()}}

    def worker_functions(self) -> dict[str, Callable[..., Any]]:
        """The host functions that exist once the script listens."""
        turns = self._turns
        assert turns
        functions: dict[str, Callable[..., Any]] = {
            "next_event": turns.next_event,
            "start_timer": turns.start_timer,
            "worker_id": lambda: turns.worker_id.encode(),
            "task_done": lambda token, members: turns.finish(token.decode(), members),
            "drop_task": lambda token: turns.drop(token.decode()),
        }
        return {name: unfailing(function) for name, function in functions.items()}

    def call(self, name: bytes, *args: Any) -> tuple[Any, ...]:
        """Run an operation here and now."""
        return self._operations[name.decode()](*args)

    def submit(self, name: bytes, *args: Any) -> int:
        """Run an operation on a thread of the pool; its outcome comes as an event with the number returned here."""
        assert self._turns and self._pool
        number = self._turns.operation()
        self._pool.submit(self._run, number, self._operations[name.decode()], args)
        return number

    def listen(self, table: Any, registration: bytes) -> None:
        """Become a worker: set up turns, heartbeats and signals, and put the worker's functions into ``table``."""
        client = self._engine.client
        assert client
        body = orjson.loads(registration)
        turns = self._turns = Turns(client, body, self._max_body)
        self._engine.worker_client = client
        self._engine.holds = turns.held.__contains__
        threads = body["max_concurrent_activities"] + 4
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="assay-operation")
        self._heartbeat = Heartbeat(client, turns)
        self._heartbeat.start()
        self._signals.listen(lambda: turns.post("stop"), self._abandon)
        for name, function in self.worker_functions().items():
            table[name.encode()] = function

    def leave(self) -> NoReturn:
        """The worker is done: deregister and end the process with code 0."""
        assert self._heartbeat
        self._heartbeat.end()
        self._deregister()
        exit_now(0)

    def _abandon(self) -> NoReturn:
        """Called on another thread when Lua code did not come to an end in the time of a stop."""
        self._deregister()
        exit_now(0)

    def _deregister(self) -> None:
        assert self._turns and self._engine.worker_client
        worker_id, self._turns.worker_id = self._turns.worker_id, ""
        if not worker_id:
            return
        crashpoints.point("worker.deregister", ":before-send")
        try:
            self._engine.worker_client.request("DELETE", "workers", worker_id, timeout=3.0)
        except Unreachable:
            return  # its leases will run out
        crashpoints.point("worker.deregister", ":after-answer")

    def _run(self, number: int, function: Callable[..., tuple[Any, ...]], args: tuple[Any, ...]) -> None:
        assert self._turns
        self._turns.post("operation", number, *function(*args))
