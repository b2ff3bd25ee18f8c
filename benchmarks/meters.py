"""What a workload costs, read from outside: /proc of the processes, and SQLite's own count of commits.

Nothing here slows the measured processes down: no tracer, no probe inside of them.
"""

from __future__ import annotations

import os
import platform
import statistics
import struct
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024
#: offset of ``iChange`` in SQLite's wal-index: a counter of 32 bits that every committed transaction raises by one
WAL_INDEX_CHANGES = 8


def group(leader: int) -> list[int]:
    """The processes of the process group that ``leader`` leads."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _group_of(int(entry.name)) == leader:
            members.append(int(entry.name))
    return members


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def children(parent: int) -> list[int]:
    """The processes that ``parent`` has started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and int(_fields(int(entry.name))[1]) == parent:
                found.append(int(entry.name))
        except FileNotFoundError:
            continue  # it has just ended
    return found


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that the processes have used so far, in seconds."""
    total = 0
    for pid in pids:
        fields = _fields(pid)
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def busy_seconds() -> float:
    """Time that the processors of the machine have worked so far, for whomever, in seconds."""
    user, nice, system, _idle, _waiting, *interrupts = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + sum(interrupts[:3])) / TICKS


def memory_mib(pids: Sequence[int]) -> tuple[float, float]:
    """Resident and proportional memory of the processes in MiB; the first counts shared pages once per process."""
    return _sum_kib(pids, "Rss:") / 1024, _sum_kib(pids, "Pss:") / 1024


def _sum_kib(pids: Sequence[int], name: str) -> int:
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids)
    return sum(int(line.split()[1]) for lines in rollups for line in lines if line.startswith(name))


def written_mib(pids: Sequence[int]) -> float:
    """What the processes gave to the disk so far, in MiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                total += int(line.split()[1])
    return total / MIB


def commits(database: Path) -> int:
    """Transactions committed to a SQLite database in WAL mode since it was opened.

    With ``synchronous=full`` each of them is one flush of the disk; a checkpoint (every 1000 pages) adds two.
    """
    with Path(f"{database}-shm").open("rb") as index:
        index.seek(WAL_INDEX_CHANGES)
        return int(struct.unpack("=I", index.read(4))[0])


def flush_cost_ms(folder: Path, writes: int = 200) -> float:
    """Median time of writing 8 KiB and flushing it (fdatasync) in ``folder``, in milliseconds."""
    block = bytes(8192)
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.write(file.fileno(), block * writes)
        os.fsync(file.fileno())
        for index in range(writes):
            begin = time.perf_counter()
            os.pwrite(file.fileno(), block, index * len(block))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


@dataclass(frozen=True)
class Reading:
    """The meters at one moment."""

    at: float
    engine_cpu: float
    worker_cpu: float
    client_cpu: float
    database_cpu: float
    machine_cpu: float
    looks: int
    commits: int
    written_mib: float


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
