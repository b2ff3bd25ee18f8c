"""The processes of the storm, and what happens to them: engines and two workers that die all the time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Self

from harness import EngineProcess, Process, WorkerProcess

import assay.app
import assay.lua.host
from assay import crashpoints
from storm.aftermath import broken_invariants
from storm.line import Storm, Wrong

WORKLOAD = Path(__file__).with_name("workload.lua")
#: these modules declare all crash points, by being imported
DECLARING = (assay.app, assay.lua.host)
CRASH_AT = "ASSAY_CRASH_AT"
#: a fault comes after so many seconds, from and to
INTERVAL_SECS = (0.5, 5.0)
#: the pairs of cache sizes of the two workers
CACHES = (("1000", "1000"), ("1000", "2"), ("0", "1000"))
REGISTERED = "worker [0-9a-f]+ registered"
#: what nobody may write, whatever is killed
ALARMS = re.compile(r"Traceback|non.determinism|background pass failed|task failed \(|HTTP 5(?!03)\d\d", re.I)


class Processes:
    """Engines and their workers; use them in a ``with`` block. ``seed`` decides what happens to them."""

    def __init__(self, backend: str, engines: int, effects_url: str, storm: Storm, seed: str) -> None:
        self._random = Random(seed)
        self._storm = storm
        self.backend = backend
        self.lease = self._random.choice([1.0, 1.5, 2.0])
        env = {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": str(self.lease)}
        self.engines = [EngineProcess(backend, env=env) for _ in range(engines)]
        self.workers: list[WorkerProcess] = []
        self._effects_url = effects_url
        #: what was done, how often
        self.faults: Counter[str] = Counter()
        self._inspection_secs = 0.0

    def __enter__(self) -> Self:
        for engine in self.engines:
            engine.__enter__()
        for number, cache in enumerate(self._random.choice(CACHES)):
            env = {"EFFECTS_URL": self._effects_url, "CACHE_SIZE": cache}
            url = self.engines[number % len(self.engines)].url
            self.workers.append(WorkerProcess(WORKLOAD, url, env=env, args=[str(number)]))
            self.workers[-1].start()
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in self._all():
            process.close()

    def end(self, clean: bool) -> None:
        """Stop all; when ``clean``, every process must say that it ended well."""
        for process in [*self.workers, *self.engines]:
            if not clean:
                crash(process)
            elif code := process.terminate(30):
                self._storm.report(f"exit code {code} after SIGTERM: {process.command}")

    def _all(self) -> list[Process]:
        return [*self.engines, *self.workers]

    # What happens to them

    def rage(self) -> None:
        """Until the storm is over, let something bad happen every few seconds; then everything runs again."""
        try:
            while not self._storm.over.wait(self._random.uniform(*INTERVAL_SECS)):
                self._check_alive()
                faults = self._faults()
                fault = self._random.choices(list(faults), list(faults.values()))[0]
                self.faults[fault.__name__.removeprefix("_").replace("_", " ")] += 1
                fault()
            self._check_alive()
            for worker in self.workers:
                worker.wait_for(REGISTERED, 60)
        except AssertionError as error:
            self._storm.report(str(error))

    def _faults(self) -> dict[Callable[[], None], int]:
        """What may happen, with weights."""
        return {
            self._kill_engine: 30,
            self._kill_worker: 35,
            self._kill_several: 7,
            self._crash_engine: 10,
            self._crash_worker: 8,
            self._stop_one: 5,
            self._freeze_worker: 5,
        }

    def _check_alive(self) -> None:
        """Nobody dies by himself."""
        for process in self._all():
            if not process.is_alive():
                raise Wrong(f"a process ended by itself: {process.command}\n{process.log()[-4000:]}")

    def _kill_engine(self) -> None:
        engine = self._random.choice(self.engines)
        how = self._random.random()
        if how < 0.5:
            crash(engine)
        elif how < 0.75:
            engine.kill()  # the master alone
        else:
            os.kill(_child(engine), signal.SIGKILL)  # the master starts another one
            time.sleep(self._random.uniform(0, 1))
            crash(engine)
        self._inspect()
        self._pause(3 * self.lease)
        self._start(engine)

    def _kill_worker(self) -> None:
        worker = self._random.choice(self.workers)
        crash(worker)
        self._pause(2 * self.lease)
        self._start(worker)

    def _kill_several(self) -> None:
        everybody = self._all()
        victims = self._random.sample(everybody, self._random.randint(2, len(everybody)))
        for process in victims:
            crash(process)
        self._pause(3 * self.lease)
        self._start(*victims)

    def _crash_engine(self) -> None:
        """An engine that dies at a certain point of its code."""
        labels = [label for label in crashpoints.LABELS if not label.startswith("worker.")]
        self._crash_at(self._random.choice(self.engines), labels)

    def _crash_worker(self) -> None:
        """A worker that dies around one of its requests."""
        labels = [label for label in crashpoints.LABELS if label.startswith("worker.")]
        self._crash_at(self._random.choice(self.workers), labels)

    def _crash_at(self, process: Process, labels: list[str]) -> None:
        crash(process)
        process.env[CRASH_AT] = f"{self._random.choice(sorted(labels))}:{self._random.choice([1, 2, 5, 20])}"
        process.start()
        self._storm.over.wait(self._random.uniform(1, 5))
        if process.is_alive():
            crash(process)
        self._start(process)

    def _stop_one(self) -> None:
        """A clean stop in the middle of everything."""
        process = self._random.choice(self._all())
        if process in self.workers:
            process.wait_for(REGISTERED, 60)  # before that, nobody takes notice of a signal
        if code := process.terminate(30):
            raise Wrong(f"exit code {code} after SIGTERM: {process.command}\n{process.log()[-4000:]}")
        self._start(process)

    def _freeze_worker(self) -> None:
        """A worker stands still, mostly for so long that it is held for lost, and goes on."""
        worker = self._random.choice(self.workers)
        worker.send(signal.SIGSTOP)
        self._pause(4 * self.lease)
        worker.send(signal.SIGCONT)

    def _start(self, *processes: Process) -> None:
        for process in processes:
            process.env.pop(CRASH_AT, None)
            process.start()
        for process in processes:
            if isinstance(process, EngineProcess):
                process.wait_ready(60)

    def _pause(self, most: float) -> None:
        """Often nothing, at most so many seconds."""
        time.sleep(max(0.0, self._random.uniform(-most, most)))

    def _inspect(self) -> None:
        """What a crash leaves behind must be in order, too. Looked at while that takes no time to speak of."""
        if self._inspection_secs > 1.0:
            return
        begin = time.monotonic()
        if broken := broken_invariants(self.backend):
            raise Wrong("after a crash of the engine:\n" + "\n".join(broken[:10]))
        self._inspection_secs = time.monotonic() - begin

    # What they wrote

    def alarms(self) -> Iterator[str]:
        """Lines in the logs that nobody may write."""
        for process in self._all():
            for path in sorted(process.folder.glob("err.*")):
                for line in path.read_text(errors="replace").splitlines():
                    if ALARMS.search(line):
                        yield f"{path.name} of {' '.join(process.command[:4])}: {line}"

    def keep_logs(self, folder: Path) -> None:
        """Copy everything that they wrote, and the script, into this folder."""
        for kind, processes in {"engine": self.engines, "worker": self.workers}.items():
            for number, process in enumerate(processes):
                shutil.copytree(process.folder, folder / f"{kind}-{number}")


def crash(process: Process) -> None:
    """SIGKILL to the process and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _child(process: Process) -> int:
    """The only child of a process; the process itself when it has none."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else process.pid
