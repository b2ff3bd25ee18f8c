"""Cron expressions with seconds: what they mean, when they fire next, and how to say it in words.

``sec min hour dom month dow [year]``. An expression is read here, strictly, with texts that help; croniter finds the
next time of the calendar that it names, on a wall clock that knows no zone; and this module decides what such a time
means where a zone's clock changes:

* An hour field of fixed hours names times of day. One that a change skips fires at the first instant after the gap,
  once for all that were skipped; one that a change repeats fires in its first pass only.
* An hour field with ``*`` or a step names a rhythm. Every instant whose wall clock time matches fires; nothing is
  moved out of a gap, and both passes of a repeated hour fire.

croniter is imported with this module: its import starts a program (``file``), which must not happen within a
transaction. cron-descriptor is imported when somebody asks for plain English.
Instants are whole epoch seconds; a wall time is an instant plus its offset from UTC.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter

FORM = "sec min hour dom month dow [year]"
EXAMPLE = "0 */5 * * * *"
LONGEST = 1000
ALIASES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}

ITEM = re.compile(r"(?P<low>\*|\?|[0-9]{1,4}|[a-z]{3})(-(?P<high>[0-9]{1,4}|[a-z]{3}))?(/(?P<step>[0-9]{1,4}))?")
SUNDAY = 7
EPOCH = datetime(1970, 1, 1)

#: seconds after which a zone's offset is looked at again; no zone changes its clock twice within that time
PROBE = 3 * 3600
#: seconds that are more than any clock was ever put back by
LONGEST_FOLD = 2 * 86400


class Invalid(ValueError):
    """This expression or time zone cannot be used; the text says why and what to write instead."""


@dataclass(frozen=True)
class Kind:
    """One of the seven fields: its name in texts, its bounds, the names of its values."""

    name: str
    low: int
    high: int
    names: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        names = f" or names like {next(iter(self.names))!r}" if self.names else ""
        return f"{self.low} to {self.high}{names}"


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SECOND = Kind("seconds", 0, 59)
MINUTE = Kind("minutes", 0, 59)
HOUR = Kind("hours", 0, 23)
DAY = Kind("days of the month", 1, 31)
MONTH = Kind("months", 1, 12, {name: number for number, name in enumerate(MONTHS, 1)})
WEEKDAY = Kind("days of the week", 0, SUNDAY, {name: number for number, name in enumerate(DAYS)})
YEAR = Kind("years", 1970, 2199)
KINDS = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY, YEAR)


@dataclass(frozen=True)
class Item:
    """One member of a field's list: ``low-high/step``."""

    kind: Kind
    low: int
    high: int
    step: int
    #: written with a star or a step, so that it names a rhythm
    rhythm: bool

    @property
    def every(self) -> bool:
        """Whether it is ``*``, ``?`` or ``*/1``, which restrict nothing."""
        return self.rhythm and self.step == 1 and (self.low, self.high) == (self.kind.low, _last(self.kind))

    def values(self) -> set[int]:
        """What it stands for; Sunday is 0."""
        numbers = range(self.low, self.high + 1, self.step)
        return {number % SUNDAY for number in numbers} if self.kind is WEEKDAY else set(numbers)


class Field:
    """One field of an expression."""

    def __init__(self, kind: Kind, items: list[Item]) -> None:
        self.kind = kind
        self.items = items
        self.values = tuple(sorted(set[int]().union(*(item.values() for item in items))))
        self.every = any(item.every for item in items)
        self.rhythm = any(item.rhythm for item in items)

    def __str__(self) -> str:
        """As numbers, for croniter."""
        return "*" if self.every else ",".join(map(str, self.values))

    def plain(self) -> str:
        """The shortest way to write it, for a description."""
        whole = len(self.values) == 1 + _last(self.kind) - self.kind.low
        # A full list of days is no star: beside another day field it means every day.
        if self.every or (whole and self.kind not in (DAY, WEEKDAY)):
            return "*"
        item = self.items[0]
        if self.kind is WEEKDAY:
            return ",".join(_ranges(_week_from_monday(self.values)))
        if len(self.items) > 1 or item.step == 1 or len(self.values) == 1:
            return ",".join(_ranges(self.values))
        if (item.low, item.high) == (self.kind.low, self.kind.high):
            return f"*/{item.step}"
        open_end = item.high == self.kind.high and self.kind is not YEAR
        return f"{item.low}/{item.step}" if open_end else f"{item.low}-{item.high}/{item.step}"


def _last(kind: Kind) -> int:
    """The end of ``*`` and of ``a/n``: there is only one Sunday in them."""
    return kind.high - 1 if kind is WEEKDAY else kind.high


def _week_from_monday(days: tuple[int, ...]) -> tuple[int, ...]:
    """With Sunday at the end where Saturday goes before it, so that both are in one range."""
    return (*days[1:], SUNDAY) if days[0] == 0 and days[-1] == SUNDAY - 1 and 1 not in days else days


def _ranges(values: tuple[int, ...]) -> Iterator[str]:
    """``1-3``, ``7`` for 1, 2, 3, 7."""
    for _, group in itertools.groupby(enumerate(values), lambda pair: pair[1] - pair[0]):
        run = [value for _, value in group]
        yield f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run))


class Cron:
    """An expression that was read. ``next_wall`` is its calendar; the functions below know about zones."""

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        #: the hour field names a rhythm and not times of day
        self.rhythm = fields[2].rhythm
        self._years = frozenset(fields[6].values) if len(fields) == 7 and not fields[6].every else None

    @functools.cached_property
    def _calendar(self) -> Any:
        # It knows years up to 2099 only, so years are left to next_wall.
        return croniter(" ".join(map(str, self.fields[:6])), EPOCH, datetime, second_at_beginning=True)

    def next_wall(self, wall: int) -> int | None:
        """The first time of the calendar after ``wall``, None when there is no more."""
        while True:
            try:
                found = self._calendar.get_next(start_time=EPOCH + timedelta(seconds=wall))
            except CroniterBadDateError:
                return None  # a day that no month has
            if self._years is None or found.year in self._years:
                return _seconds(found)
            year = min((year for year in self._years if year > found.year), default=None)
            if year is None:
                return None
            wall = _seconds(datetime(year, 1, 1)) - 1

    def describe(self) -> str:
        """What it means in plain English."""
        from cron_descriptor import ExpressionDescriptor, Options

        options = Options()
        options.locale_code = "en_US"
        options.use_24hour_time_format = True
        seventh = [self.fields[6].plain() if len(self.fields) == 7 else "*"]
        expression = " ".join([*(each.plain() for each in self.fields[:6]), *seventh])
        return str(ExpressionDescriptor(expression, options).get_description())


def _seconds(wall: datetime) -> int:
    return (wall - EPOCH) // timedelta(seconds=1)


# Reading


@functools.lru_cache(maxsize=1024)
def parse(expression: str) -> Cron:
    """The expression, understood. Raises Invalid."""
    text = expression.strip(" ").lower()
    if len(text) > LONGEST:
        raise Invalid(f"is {len(text)} characters long, the limit is {LONGEST}")
    if text.startswith("@"):
        if text not in ALIASES:
            raise Invalid(f"unknown {_short(text)}; use one of {', '.join(ALIASES)}, or {FORM}")
        text = ALIASES[text]
    parts = text.split()
    if len(parts) not in (6, 7):
        raise Invalid(_wrong_number(expression, parts))
    fields = zip(KINDS, parts, strict=False)  # the year may be missing
    return Cron([Field(kind, [_item(kind, item) for item in part.split(",")]) for kind, part in fields])


def _wrong_number(expression: str, parts: list[str]) -> str:
    if not parts:
        return f"must not be empty; use {FORM}, for example '{EXAMPLE}'"
    if len(parts) == 5:
        own = " ".join(["0", *parts])
        return f"5 fields given; cron here starts with seconds, try {_short(own)} ({FORM}, for example '{EXAMPLE}')"
    count = "1 field" if len(parts) == 1 else f"{len(parts)} fields"
    return f"{count} given, 6 or 7 are needed: {FORM}, for example '{EXAMPLE}'"


def _item(kind: Kind, text: str) -> Item:
    match = ITEM.fullmatch(text)
    if match is None:
        raise Invalid(f"{kind.name}: {_short(text)} is not understood; use *, {kind}, lists, ranges a-b and steps /n")
    low, high, step = match["low"], match["high"], match["step"]
    star = low in "*?"
    if star and high is not None:
        raise Invalid(f"{kind.name}: {text!r} is not a range; write {low!r} or two numbers")
    if step is not None and int(step) == 0:
        raise Invalid(f"{kind.name}: the step of {text!r} must be at least 1")
    first = kind.low if star else _value(kind, low)
    last = _last(kind) if star or (high is None and step is not None) else _value(kind, high or low)
    if kind is WEEKDAY:
        first, last = _week(first, last)
    if first > last:
        raise Invalid(f"{kind.name}: the range {text!r} goes backwards; write two ranges, the lower one first")
    return Item(kind, first, last, int(step or 1), star or step is not None)


def _value(kind: Kind, text: str) -> int:
    value = kind.names.get(text, -1) if text.isalpha() else int(text)
    if value == -1:
        known = f"; use {', '.join(kind.names)}" if kind.names else f"; use {kind}"
        raise Invalid(f"{kind.name}: unknown name {text!r}{known}")
    if not kind.low <= value <= kind.high:
        raise Invalid(f"{kind.name}: {text!r} is outside {kind.low} to {kind.high}")
    return value


def _week(first: int, last: int) -> tuple[int, int]:
    """0 and 7 are the same day: it is the first one at the start of a range and the last one at its end."""
    if first == SUNDAY:
        return (0, 0) if last == SUNDAY else (0, last)
    return (first, SUNDAY) if last == 0 < first else (first, last)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


@functools.cache
def zone_names() -> frozenset[str]:
    """The names of all IANA time zones."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split()) - {"Factory"}


@functools.lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """The time zone of this IANA name. Raises Invalid."""
    names = zone_names()
    if name in names:
        return ZoneInfo(name)
    by_fold = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower()[:60], by_fold, 1, 0.75)
    hint = f"did you mean '{by_fold[close[0]]}'?" if close else "use an IANA name such as 'UTC' or 'Europe/Berlin'"
    raise Invalid(f"unknown time zone {_short(name)}; {hint}")


# Firing times


def next_after(expression: str, timezone: str, after: float) -> float | None:
    """The first firing time (epoch seconds) later than ``after``, None when there is no more. Raises Invalid."""
    cron, where = parse(expression), zone(timezone)
    found = (_next_in_rhythm if cron.rhythm else _next_time_of_day)(cron, where, math.floor(after))
    return None if found is None else float(found)


def latest(expression: str, timezone: str, after: float, until: float) -> float | None:
    """The last firing time later than ``after`` and not later than ``until``, None without one. Raises Invalid."""
    found = _due(expression, timezone, after, until)
    end = float(math.floor(until))
    while found is not None and found < end:
        # Nothing fires later than `end`; halve what is left.
        middle = math.floor((found + end) / 2)
        later = _due(expression, timezone, middle, until)
        found, end = (found, middle) if later is None else (later, end)
    return found


def _due(expression: str, timezone: str, after: float, until: float) -> float | None:
    found = next_after(expression, timezone, after)
    return found if found is not None and found <= until else None


def _next_time_of_day(cron: Cron, where: ZoneInfo, after: int) -> int | None:
    wall = cron.next_wall(_last_wall_before(where, after))
    while wall is not None:
        instant = _first_pass(where, wall)[0]
        if instant > after:
            return instant
        wall = cron.next_wall(wall)
    return None


def _last_wall_before(where: ZoneInfo, instant: int) -> int:
    """The latest wall time whose first pass is not later than ``instant``."""
    moment = datetime.fromtimestamp(instant, where)
    offset = _offset(where, instant)
    if not moment.fold:
        return instant + offset
    first = _delta(moment.replace(fold=0))
    change = _change(where, instant - (first - offset), instant)
    assert change is not None
    return change + first - 1


def _first_pass(where: ZoneInfo, wall: int) -> tuple[int, bool]:
    """The first instant with this wall time; False with the end of the gap when the clock skips it."""
    moment = (EPOCH + timedelta(seconds=wall)).replace(tzinfo=where)
    before = _delta(moment)
    instant = wall - before
    if _offset(where, instant) == before:
        return instant, True
    change = _change(where, wall - _delta(moment.replace(fold=1)), instant)
    assert change is not None
    return change, False


def _next_in_rhythm(cron: Cron, where: ZoneInfo, after: int) -> int | None:
    start = after + 1
    while True:
        offset = _offset(where, start)
        wall = cron.next_wall(start + offset - 1)
        horizon = start + LONGEST_FOLD
        instant = math.inf if wall is None else wall - offset
        # Up to the next change of the clock, wall time runs evenly.
        change = _change(where, start, int(min(instant, horizon)))
        if change is not None:
            start = change
        elif wall is None:
            return None
        elif instant <= horizon:
            return wall - offset
        else:
            # No later change leads back to wall times before this one.
            start, exists = _first_pass(where, wall)
            if exists:
                return start


def _change(where: ZoneInfo, after: int, until: int) -> int | None:
    """The first instant in (after, until] with another offset than ``after``, None without one."""
    offset = _offset(where, after)
    while after < until:
        end = min(after + PROBE, until)
        if _offset(where, end) != offset:
            break
        after = end
    else:
        return None
    while end - after > 1:
        middle = (after + end) // 2
        after, end = (middle, end) if _offset(where, middle) == offset else (after, middle)
    return end


def _offset(where: ZoneInfo, instant: int) -> int:
    return _delta(datetime.fromtimestamp(instant, where))


def _delta(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
