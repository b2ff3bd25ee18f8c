"""The guide of the worker protocol is true: its shell blocks, typed in one after the other, answer what it shows.

A JSON block shows the answer of the shell block above it. Members that it leaves out may be anything, and so may a
value that it shows as "…".
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from harness import CHECKOUT, EngineProcess, environment

GUIDE = CHECKOUT / "docs" / "workers.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = "=====end of block====="


def blocks() -> list[tuple[str, str]]:
    """Language and text of every block."""
    return [match.groups() for match in FENCE.finditer(GUIDE.read_text())]  # type: ignore[misc]


def differences(shown: Any, found: Any, at: str = "$") -> list[str]:
    """Where an answer is not what the guide shows."""
    if shown == "…":
        return []
    if isinstance(shown, dict) and isinstance(found, dict):
        return [text for key in shown for text in differences(shown[key], found.get(key, "(nothing)"), f"{at}.{key}")]
    if isinstance(shown, list) and isinstance(found, list) and len(shown) == len(found):
        pairs = enumerate(zip(shown, found, strict=True))
        return [text for n, (one, other) in pairs for text in differences(one, other, f"{at}.{n}")]
    return [] if shown == found else [f"{at}: {found!r}, the guide shows {shown!r}"]


def test_each_block_answers_what_the_guide_shows() -> None:
    found = blocks()
    shell = [text for language, text in found if language == "sh"]
    with EngineProcess() as engine:
        done = subprocess.run(
            ["bash", "-c", "set -eu\n" + "".join(f"{text}\necho '{MARK}'\n" for text in shell)],
            env=environment({"ENGINE": engine.url, "no_proxy": "127.0.0.1"}),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    outputs = iter(done.stdout.split(MARK))
    assert done.returncode == 0, done.stderr + done.stdout
    wrong, shown, output = [], 0, ""
    for language, text in found:
        if language == "sh":
            output = next(outputs)
        elif language == "json":
            shown += 1
            wrong += [f"{text}: {problem}" for problem in differences(json.loads(text), json.loads(output))]
    assert wrong == [] and shown > 10


def test_every_code_of_the_guide_exists() -> None:
    errors = (CHECKOUT / "assay" / "errors.py").read_text()
    table = GUIDE.read_text().partition("## Answers and what to do")[2].partition("\n## ")[0]
    codes = re.findall(r"`([a-z]+_[a-z_]+)`", table)
    assert codes and [code for code in codes if f'"{code}"' not in errors] == []
