"""Requests of one kind that arrive while others are at work share the next transaction.

One of those who ask leads: it lets whoever is about to ask come along, takes all that wait, does the work of all of
them at once and hands on the lead. Who asks alone does not wait for anybody. When the common work fails and it is
certain that nothing came of it, everyone does its own part alone, so that nobody suffers from another's request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import gevent
from gevent.event import Event

from assay.errors import NotReady

Item = TypeVar("Item")
Outcome = Any

#: at most so many requests, of so many bytes, do their work together
MOST, MOST_BYTES = 64, 1024 * 1024
#: who has waited for so long for those before it goes alone
PATIENCE_SECS = 0.25


class _Ticket(Generic[Item]):
    """One request that waits, and what it is told."""

    def __init__(self, item: Item, size: int) -> None:
        self.item = item
        self.size = size
        self.told = Event()
        #: it is its turn to lead
        self.leads = False
        #: somebody does its part
        self.taken = False
        #: what came of it: an answer or an error; ``ALONE``: it does its part by itself
        self.outcome: Outcome = None

    def tell(self, outcome: Outcome) -> None:
        """End its wait."""
        self.outcome = outcome
        self.told.set()


ALONE = object()


class Together(Generic[Item]):
    """``together`` does the work of several requests and returns an answer or an error for each."""

    def __init__(self, together: Callable[[list[Item]], Sequence[Outcome]]) -> None:
        self._together = together
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[Item]] = []
        #: since when one leads
        self._led_since: float | None = None

    def do(self, item: Item, size: int, alone: Callable[[], Outcome]) -> Outcome:
        """The answer to ``item`` of ``size`` bytes; ``alone`` does its work in a transaction of its own.

        Raises what ``alone`` raises, and what the common work has for this item.
        """
        ticket = _Ticket(item, size)
        with self._lock:
            self._waiting.append(ticket)
            now = time.monotonic()
            # Nobody comes along with one who is held up.
            ticket.leads = self._led_since is None or now - self._led_since > PATIENCE_SECS
            if ticket.leads:
                self._led_since = now
        if not ticket.leads:
            self._wait(ticket)
        if ticket.leads:
            return self._lead(ticket, alone)
        return self._answer(ticket, alone)

    def _answer(self, ticket: _Ticket[Item], alone: Callable[[], Outcome]) -> Outcome:
        outcome = ticket.outcome
        if outcome is ALONE:
            return alone()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _wait(self, ticket: _Ticket[Item]) -> None:
        """Until it is told what came of it, or to lead, or has waited long enough."""
        try:
            if not ticket.told.wait(PATIENCE_SECS) and self._leave(ticket):
                ticket.outcome = ALONE
            else:
                ticket.told.wait()
        except BaseException:
            if not self._leave(ticket) and ticket.leads:
                self._hand_on(ticket)
            raise

    def _leave(self, ticket: _Ticket[Item]) -> bool:
        """Wait no more; False when its part is being done, or it is to lead."""
        with self._lock:
            if ticket.taken or ticket.leads:
                return False
            self._waiting.remove(ticket)
            return True

    def _lead(self, own: _Ticket[Item], alone: Callable[[], Outcome]) -> Outcome:
        try:
            gevent.sleep(0)  # whoever is about to ask does so now
            group = self._take(own)
            if len(group) == 1:
                return alone()
            self._carry_out(group)
        finally:
            self._hand_on(own)
        return self._answer(own, alone)

    def _take(self, own: _Ticket[Item]) -> list[_Ticket[Item]]:
        """The leader's own and those who have waited longest, as many as go together."""
        with self._lock:
            group, size = [own], own.size
            for ticket in self._waiting:
                if len(group) >= MOST or size + ticket.size > MOST_BYTES:
                    break
                if not ticket.leads:
                    group.append(ticket)
                    size += ticket.size
            for ticket in group:
                ticket.taken = True
            self._waiting = [ticket for ticket in self._waiting if not ticket.taken]
        return group

    def _carry_out(self, group: list[_Ticket[Item]]) -> None:
        outcomes: Sequence[Outcome] = ()
        try:
            outcomes = self._together([ticket.item for ticket in group])
        except NotReady as error:
            outcomes = [ALONE if error.undone else type(error)(error.message) for _ in group]
        except Exception:
            outcomes = [ALONE] * len(group)
        finally:
            # Nothing when the leader is killed: then nobody knows what came of it.
            for ticket, outcome in zip(group, outcomes or [NotReady() for _ in group], strict=True):
                ticket.tell(outcome)

    def _hand_on(self, own: _Ticket[Item]) -> None:
        """The lead of ``own`` ends; who has waited longest is next."""
        with self._lock:
            self._waiting = [ticket for ticket in self._waiting if ticket is not own]
            self._led_since = time.monotonic() if self._waiting else None
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].told.set()
