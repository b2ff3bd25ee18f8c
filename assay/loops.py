"""Background work: one runner, and a table of what runs when.

Each job is a function that makes one pass at a given time and returns how many things it did; tests call the passes
directly. A pass that fails is logged and made again; no loop ends, and none ends another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event

from assay import crashpoints, logs
from assay.engine import Engine, archive, leases, outbox, schedules, sessions, texts, timers, workers
from assay.engine.core import hold_lock, touch_lock
from assay.engine.notify import SCHEDULES, TIMERS
from assay.errors import NotReady

log = logs.get("assay.loops")

#: a loop that sleeps until something is due looks at least this often, in case a wake-up was lost
FALLBACK_SECS = 5.0
#: the pause after such a pass that failed; it doubles from the first to the second
RETRY_SECS = (0.05, 1.0)
#: how often an instance that does not lead looks whether it does
FOLLOWER_SECS = 1.0


@dataclass(frozen=True)
class Job:
    """A pass that is made every ``every`` seconds."""

    name: str
    every: float
    run_once: Callable[[Engine, float], int]
    #: only one of several instances does it
    leader_only: bool = False
    #: asked before that
    is_due: Callable[[Engine, float], bool] = lambda engine, now: True


def expire(engine: Engine, now: float) -> int:
    """End what has expired, unless it only seems so: no sign of life could be stored, or the engine stood still.

    Workers that talk to other instances can seem silent because the database stores nothing, so that is tried.
    """
    several = engine.db.dialect.several_instances
    if engine.refused_since is not None or (several and workers.some_seem_silent(engine, now)):
        touch_lock(engine, now)
    engine.blind_since(engine.watched_at)
    count = leases.expire(engine, now)
    engine.watched_at = now
    return count


JOBS = (
    Job("expire", 0.5, expire),
    Job(
        "clean-up",
        60.0,
        lambda engine, now: (
            leases.forget_lost_workers(engine, now) + outbox.prune(engine, now) + sessions.forget_expired(engine, now)
        ),
        leader_only=True,
    ),
    Job("texts", 5.0, texts.index, leader_only=True),
    Job("lock", 5.0, hold_lock),
    Job("archive", 1.0, archive.run_once, leader_only=True, is_due=archive.is_due),
)


@dataclass(frozen=True)
class Sleeper:
    """A pass that deals with what is due, and whose loop then sleeps until more is."""

    name: str
    deal: Callable[[Engine, float], int]
    next_due: Callable[[Engine, float], float | None]
    leader_only: bool = False

    def run_once(self, engine: Engine, now: float) -> int:
        """Deal with what is due; when nothing is, find out until when the loop can sleep."""
        done = self.deal(engine, now)
        if not done:
            alarm = engine.notifier.alarms[self.name]
            # Until the target is known, whatever is due wakes the loop.
            alarm.target = float("inf")
            due = self.next_due(engine, now)
            latest = now + engine.look_every(FALLBACK_SECS)
            alarm.target = latest if due is None else min(due, latest)
        return done


def _next_timer(engine: Engine, now: float) -> float | None:
    due = timers.next_due(engine)
    # One that is due now could have been fired and was not.
    return now + RETRY_SECS[1] if due is not None and due <= now else due


SLEEPERS = (
    Sleeper(TIMERS, lambda engine, now: timers.fire_due(engine, now), _next_timer),
    Sleeper(SCHEDULES, schedules.fire_due, schedules.next_due, leader_only=True),
)
for _each in (*JOBS, *SLEEPERS):
    crashpoints.declare(f"loop.{_each.name}", ":before-pass", ":after-pass")


def run_pass(engine: Engine, name: str, run_once: Callable[[Engine, float], int]) -> int | None:
    """Make one pass; what it returned, or None when it failed (which is logged)."""
    place = f"loop.{name}"
    crashpoints.point(place, ":before-pass")
    try:
        count = run_once(engine, engine.now())
    except NotReady as error:
        if name not in engine.put_off:
            log.warning("background pass put off until the database can be used", job=name, cause=error.message)
        engine.put_off.add(name)
        return None
    except Exception:
        log.exception("background pass failed", job=name)
        return None
    engine.put_off.discard(name)
    crashpoints.point(place, ":after-pass")
    return count


class Loops:
    """The background greenlets of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._stop = Event()
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Spawn one greenlet per job."""
        self.engine.archiver = archive.open_archiver(self.engine)
        self._greenlets = [gevent.spawn(self._repeat, job) for job in JOBS]
        self._greenlets += [gevent.spawn(self._sleep_and_wake, sleeper) for sleeper in SLEEPERS]

    def stop(self) -> None:
        """End all loops; a pass in progress is finished, an upload is given up."""
        self._stop.set()
        if self.engine.archiver is not None:
            self.engine.archiver.stop()
        for alarm in self.engine.notifier.alarms.values():
            alarm.wake()
        gevent.joinall(self._greenlets, timeout=5)

    def _repeat(self, job: Job) -> None:
        while not self._stop.wait(job.every):
            due = job.is_due(self.engine, self.engine.now())
            if due and (not job.leader_only or self.engine.leads()):
                run_pass(self.engine, job.name, job.run_once)

    def _sleep_and_wake(self, sleeper: Sleeper) -> None:
        """Deal with what is due, sleep until more is, woken by what is due earlier."""
        alarm = self.engine.notifier.alarms[sleeper.name]
        pause = RETRY_SECS[0]
        while not self._stop.is_set():
            if sleeper.leader_only and not self.engine.leads():
                self._stop.wait(FOLLOWER_SECS)
                continue
            alarm.clear()
            done = run_pass(self.engine, sleeper.name, sleeper.run_once)
            if done is None:
                self._stop.wait(pause)
                pause = min(2 * pause, RETRY_SECS[1])
                continue
            pause = RETRY_SECS[0]
            if done:
                gevent.sleep(0)  # let requests run between batches
            else:
                alarm.wait(alarm.target - self.engine.now())
