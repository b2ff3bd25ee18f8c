"""``python -m benchmarks``: run the workloads; ``--help`` tells which and how."""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from typing import Any

import orjson

from benchmarks import meters
from benchmarks.stage import Stage
from benchmarks.stores import STORES, Store
from benchmarks.workloads import WORKLOADS, Numbers, long_sequence

LONG_STEPS = 10_000
#: a SQLite file serves one engine
SEVERAL_ENGINES = ("W9",)


def main() -> int:
    """Print the machine and one JSON line per workload; 1 when a check failed."""
    options = _options()
    workloads = dict(WORKLOADS)
    if options.long:
        workloads["W2"] = partial(long_sequence, steps=LONG_STEPS)
    backend = STORES[options.backend]
    _print({"machine": meters.machine(), "backend": options.backend})
    failed = False
    for name in options.only or _all(options.backend):
        try:
            numbers = median([_run(workloads[name], backend, options.workers) for _ in range(options.repeat)])
        except AssertionError as error:
            failed = True
            _print({"workload": name, "failed": str(error)})
            continue
        what = (WORKLOADS[name].__doc__ or "").split(": ", 1)[-1].split("\n")[0]
        _print({"workload": name, "what": what, "runs": options.repeat, **numbers})
        if not options.json:
            _explain(name, numbers)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure assay with real processes.")
    parser.add_argument("--only", type=_names, metavar="W1,W3", help="these workloads only")
    parser.add_argument("--backend", choices=list(STORES), default="sqlite", help="the database (default: sqlite)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="so many workers of the queue (default: 1)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each N times and print the medians")
    parser.add_argument("--long", action="store_true", help=f"W2 with {LONG_STEPS} steps")
    parser.add_argument("--json", action="store_true", help="JSON lines only, nothing on stderr")
    return parser.parse_args()


def _all(backend: str) -> list[str]:
    """Every workload that this database can do."""
    return [name for name in WORKLOADS if backend != "sqlite" or name not in SEVERAL_ENGINES]


def _names(text: str) -> list[str]:
    names = [name.strip().upper() for name in text.split(",")]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    return names


def _run(workload: Any, backend: type[Store], workers: int) -> Numbers:
    with Stage(backend()) as stage:
        for _ in range(workers - 1):
            stage.add_worker(stage.engine)
        numbers: Numbers = workload(stage)
        return numbers


def median(results: list[Numbers]) -> Numbers:
    """The median of every number over several runs of one workload."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def _print(line: dict[str, Any]) -> None:
    print(orjson.dumps(line).decode(), flush=True)


def _explain(name: str, numbers: Numbers) -> None:
    """The same for people, on stderr."""
    print(name, file=sys.stderr)
    for key, value in numbers.items():
        print(f"    {key:<30}{value:>12}", file=sys.stderr)
    print(file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
