"""Waking what waits: long polls, the loops that sleep until something is due, live streams.

A wake-up is only a hint; whoever is woken looks into the database. So a lost hint costs time (every wait has a bound),
never a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from gevent.event import Event

Queue = tuple[str, str]
#: loops with an alarm
TIMERS = "timers"
SCHEDULES = "schedules"

#: bytes; Postgres refuses notifications of 8000 bytes and more
MESSAGE_LIMIT = 7900


class Waiter:
    """One waiting poll and the kinds of work that it can take (``w:<type>``, ``a:<name>``)."""

    def __init__(self, takes: frozenset[str]) -> None:
        self.takes = takes
        self._event = Event()

    def wake(self) -> None:
        """End the wait."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep until woken, at most ``seconds``."""
        self._event.wait(max(0.0, seconds))

    def clear(self) -> None:
        """Forget earlier wake-ups; called before looking for work."""
        self._event.clear()


class Alarm(Waiter):
    """What a loop sleeps on until ``target`` (epoch seconds), unless something is due earlier."""

    def __init__(self) -> None:
        super().__init__(frozenset())
        self.target = 0.0

    def due(self, moment: float) -> None:
        """Something is due at ``moment``: wake when that is before the target."""
        if moment < self.target:
            self.wake()


class Notifier:
    """The waiting polls of this process by (namespace, queue), and the alarms of its loops by name."""

    def __init__(self) -> None:
        self._waiters: dict[Queue, set[Waiter]] = {}
        self.alarms = {TIMERS: Alarm(), SCHEDULES: Alarm()}
        self.streams = Waiter(frozenset())
        #: grows with every publication that made work available
        self.generation = 0

    @contextmanager
    def waiting(self, queue: Queue, takes: frozenset[str]) -> Iterator[Waiter]:
        """Register a waiter for the time of the block."""
        waiter = Waiter(takes)
        group = self._waiters.setdefault(queue, set())
        group.add(waiter)
        try:
            yield waiter
        finally:
            group.discard(waiter)
            if not group:
                self._waiters.pop(queue, None)

    def publish(self, wakes: set[tuple[str, str, str]], due: dict[str, float], changed: bool) -> None:
        """Called after a commit with what it made available."""
        if wakes:
            self.generation += 1
        for namespace, queue, what in wakes:
            for waiter in self._waiters.get((namespace, queue), ()):
                if what == "*" or what in waiter.takes:
                    waiter.wake()
        for name, moment in due.items():
            self.alarms[name].due(moment)
        if changed:
            self.streams.wake()

    def message(self, sender: str, wakes: set[tuple[str, str, str]], due: dict[str, float], changed: bool) -> bytes:
        """A publication as text for the other instances; without details when these would be too long."""
        full = orjson.dumps({"from": sender, "wakes": list(wakes), "due": due, "changed": changed})
        return full if len(full) <= MESSAGE_LIMIT else orjson.dumps({"from": sender, "all": True})

    def hear(self, own: str, message: bytes) -> None:
        """Publish what another instance said."""
        said = orjson.loads(message)
        if said["from"] == own:
            return
        if said.get("all"):
            self.look()
            return
        wakes = {(namespace, queue, what) for namespace, queue, what in said["wakes"]}
        self.publish(wakes, said["due"], said["changed"])

    def look(self) -> None:
        """Something may have happened that nobody told about."""
        self.generation += 1
        self.wake_all()

    def wake_all(self) -> None:
        """Wake everything."""
        for group in self._waiters.values():
            for waiter in group:
                waiter.wake()
        for alarm in self.alarms.values():
            alarm.wake()
        self.streams.wake()
