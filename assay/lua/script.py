"""Running a Lua script file, in this process or in several."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from assay import config, crashpoints
from assay.errors import ConfigError
from assay.lua.host import Host
from assay.lua.processes import supervise
from assay.lua.runtime import Runtime
from assay.lua.signals import SignalWatch

DEADLOCK_SECS = 10.0
MAX_BODY_BYTES = 16.0 * 1024 * 1024


def run_script(path: str, args: Sequence[str] = (), processes: int = 1) -> int:
    """Run a Lua script and return its exit code: 0 at its end, 1 on an uncaught error or an unreadable file.

    ``os.exit`` and the end of ``workflow.listen`` leave the process themselves. Errors go to stderr.
    """
    if processes > 1:
        return supervise(processes, lambda pipe: _run(path, args, pipe))
    return _run(path, args, None)


def _run(path: str, args: Sequence[str], parent: int | None) -> int:
    try:
        crash_at = config.crash_at()
        source = Path(path).read_bytes()
        deadlock_secs = _number("ASSAY_WF_DEADLOCK_SECS", DEADLOCK_SECS)
        max_body = int(_number("ASSAY_MAX_BODY_BYTES", MAX_BODY_BYTES))
    except OSError as error:
        return _fail(f"cannot read {path}: {error.strerror}")
    except (ConfigError, ValueError) as error:
        return _fail(str(error))
    if crash_at:
        crashpoints.arm(crash_at)
    signals = SignalWatch(parent)
    signals.start()
    try:
        runtime = Runtime(Host(signals, max_body).functions())
        done, message = runtime.run(
            _without_first_comment(source),
            path,
            args,
            search_path=search_path(path),
            deadlock_secs=deadlock_secs,
        )
    finally:
        signals.end()
    return 0 if done else _fail(message)


def _fail(message: str) -> int:
    sys.stderr.write(f"assay: {message}\n")
    sys.stderr.flush()
    return 1


def _number(variable: str, default: float) -> float:
    """A setting of the environment. Raises ``ValueError`` when it is not a finite number above 0."""
    text = os.environ.get(variable) or ""
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{variable} must be a number above 0, not {text!r}")
    return value


def _without_first_comment(source: bytes) -> bytes:
    """The source without a byte-order mark and without a first line that starts with #; line numbers stay."""
    source = source.removeprefix(b"\xef\xbb\xbf")
    if not source.startswith(b"#"):
        return source
    _, newline, rest = source.partition(b"\n")
    return newline + rest


def search_path(path: str) -> str:
    """Lua's package.path for a script: ./, ./modules, its own directory, $ASSAY_MODULES_PATH, ~/.assay/modules."""
    folders = [".", "./modules", os.path.dirname(path) or "."]
    folders += [part for part in os.environ.get("ASSAY_MODULES_PATH", "").split(os.pathsep) if part]
    folders.append(os.path.expanduser("~/.assay/modules"))
    unique = dict.fromkeys(folder.rstrip("/") or "/" for folder in folders)
    return ";".join(f"{folder}/?.lua;{folder}/?/init.lua" for folder in unique)
