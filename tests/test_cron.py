"""Cron expressions: what is accepted, when they fire next in every zone, and how they are said in words.

The firing times are compared with an independent reading of the rules that looks at every second of a stretch of time.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from assay.engine import cron


def instant(text: str, zone: str = "UTC", fold: int = 0) -> float:
    """Epoch seconds of a wall time such as ``2026-03-29 03:00:00``."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def firings(expression: str, zone: str, after: float, count: int) -> list[str]:
    """The next firing times as UTC texts."""
    found = []
    for _ in range(count):
        following = cron.next_after(expression, zone, after)
        if following is None:
            break
        assert following > after
        found.append(datetime.fromtimestamp(following, UTC).strftime("%Y-%m-%d %H:%M:%S"))
        after = following
    return found


# What an expression means


START = instant("2026-01-01 00:00:00")

MEANINGS = {
    "0 */5 * * * *": ["2026-01-01 00:05:00", "2026-01-01 00:10:00"],
    "* * * * * *": ["2026-01-01 00:00:01", "2026-01-01 00:00:02"],
    "0 0 2 * * *": ["2026-01-01 02:00:00", "2026-01-02 02:00:00"],
    "30,10-12 0 0 * * *": ["2026-01-01 00:00:10", "2026-01-01 00:00:11", "2026-01-01 00:00:12", "2026-01-01 00:00:30"],
    "0 50/4 * * * *": ["2026-01-01 00:50:00", "2026-01-01 00:54:00", "2026-01-01 00:58:00", "2026-01-01 01:50:00"],
    "0 10-30/10 * * * *": ["2026-01-01 00:10:00", "2026-01-01 00:20:00", "2026-01-01 00:30:00", "2026-01-01 01:10:00"],
    "0 59/10 * * * *": ["2026-01-01 00:59:00", "2026-01-01 01:59:00"],
    "0 5-5 * * * *": ["2026-01-01 00:05:00", "2026-01-01 01:05:00"],
    "0 */90 * * * *": ["2026-01-01 01:00:00", "2026-01-01 02:00:00"],
    "0 0 0 31 * *": ["2026-01-31 00:00:00", "2026-03-31 00:00:00", "2026-05-31 00:00:00"],
    "0 0 0 29 2 *": ["2028-02-29 00:00:00", "2032-02-29 00:00:00"],
    "0 0 0 30 2 *": [],
    "0 0 0 * jan-MAR Mon": ["2026-01-05 00:00:00", "2026-01-12 00:00:00"],
    "0 0 0 ? dec sun": ["2026-12-06 00:00:00", "2026-12-13 00:00:00"],
    "0 0 0 * * 0": ["2026-01-04 00:00:00", "2026-01-11 00:00:00"],
    "0 0 0 * * 7": ["2026-01-04 00:00:00", "2026-01-11 00:00:00"],
    "0 0 0 * * 5-7": ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00", "2026-01-09 00:00:00"],
    "0 0 0 * * fri-sun": ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00", "2026-01-09 00:00:00"],
    "0 0 0 * * 7-2": ["2026-01-04 00:00:00", "2026-01-05 00:00:00", "2026-01-06 00:00:00", "2026-01-11 00:00:00"],
    "0 0 0 * * 1/2": ["2026-01-02 00:00:00", "2026-01-05 00:00:00", "2026-01-07 00:00:00", "2026-01-09 00:00:00"],
    "0 0 0 * * */3": ["2026-01-03 00:00:00", "2026-01-04 00:00:00", "2026-01-07 00:00:00", "2026-01-10 00:00:00"],
    # both day fields restricted: either one matching is enough
    "0 0 0 13 * fri": ["2026-01-02 00:00:00", "2026-01-09 00:00:00", "2026-01-13 00:00:00", "2026-01-16 00:00:00"],
    "0 0 0 1-31 * fri": ["2026-01-02 00:00:00", "2026-01-03 00:00:00", "2026-01-04 00:00:00"],
    "0 0 0 31 2 fri": ["2026-02-06 00:00:00", "2026-02-13 00:00:00"],
    "0 0 0 13 * ?": ["2026-01-13 00:00:00", "2026-02-13 00:00:00"],
    "0 0 0 */1 * fri": ["2026-01-02 00:00:00", "2026-01-09 00:00:00"],
    # years
    "0 0 0 1 1 * 2025": [],
    "0 0 0 1 1 * 2026": [],
    "0 0 0 1 1 * 2199": ["2199-01-01 00:00:00"],
    "0 0 0 1 1 * 2027-2028,2190/7": ["2027-01-01 00:00:00", "2028-01-01 00:00:00", "2190-01-01 00:00:00"],
    "0 0 0 29 2 * 2097-2110": ["2104-02-29 00:00:00", "2108-02-29 00:00:00"],
    "59 59 23 31 12 ? 2199": ["2199-12-31 23:59:59"],
    "0 0 0 1 1 * *": ["2027-01-01 00:00:00", "2028-01-01 00:00:00"],
    "0 0 0 1 1 ? */100": ["2070-01-01 00:00:00", "2170-01-01 00:00:00"],
    # short forms
    "@yearly": ["2027-01-01 00:00:00"],
    "@annually": ["2027-01-01 00:00:00"],
    "@Monthly": ["2026-02-01 00:00:00"],
    "@weekly": ["2026-01-04 00:00:00", "2026-01-11 00:00:00"],
    "@daily": ["2026-01-02 00:00:00"],
    " @midnight ": ["2026-01-02 00:00:00"],
    "@HOURLY": ["2026-01-01 01:00:00"],
    "  0  0 2 *\t* * ": ["2026-01-01 02:00:00"],
}


@pytest.mark.parametrize("expression", MEANINGS)
def test_an_expression_fires_when_it_says(expression: str) -> None:
    expected = MEANINGS[expression]
    assert firings(expression, "UTC", START, max(1, len(expected))) == expected


def test_the_next_time_is_always_later_also_within_a_second() -> None:
    assert cron.next_after("* * * * * *", "UTC", 100.0) == 101.0
    assert cron.next_after("* * * * * *", "UTC", 100.000001) == 101.0
    assert cron.next_after("* * * * * *", "UTC", 100.999999) == 101.0
    assert cron.next_after("0 * * * * *", "UTC", 119.5) == 120.0


BAD = {
    "": "must not be empty",
    "   ": "0 */5 * * * *",
    "*/5 * * * *": "0 */5 * * * *",
    "0 2 * * *": "0 0 2 * * *",
    "bogus of five fields here": "5 fields",
    "*": "1 field",
    "* * * *": "4 fields",
    "* * * * * * * *": "8 fields",
    "60 * * * * *": "seconds: '60' is outside 0 to 59",
    "0 60 * * * *": "minutes",
    "0 0 24 * * *": "hours",
    "0 0 0 0 * *": "days of the month",
    "0 0 0 32 * *": "1 to 31",
    "0 0 0 * 0 *": "months",
    "0 0 0 * 13 *": "months",
    "0 0 0 * * 8": "days of the week: '8'",
    "0 0 0 * * * 1969": "years",
    "0 0 0 * * * 2200": "1970 to 2199",
    "0 0 5-1 * * *": "backwards",
    "0 0 0 * dec-jan *": "backwards",
    "0 0 0 * * fri-mon": "backwards",
    "0 */0 * * * *": "at least 1",
    "0 5/ * * * *": "not understood",
    "0 1,,2 * * * *": "not understood",
    "0 1- * * * *": "not understood",
    "0 -1 * * * *": "not understood",
    "0 *-5 * * * *": "not a range",
    "0 1.5 * * * *": "not understood",
    "0 ١ * * * *": "not understood",
    "0 0 0 L * *": "not understood",
    "0 0 0 15W * *": "not understood",
    "0 0 0 * * 5#2": "not understood",
    "H * * * * *": "not understood",
    "0 0 0 * mon *": "jan, feb",
    "0 0 0 * * jan": "sun, mon",
    "0 0 mon * * *": "0 to 23",
    "@reboot": "@hourly",
    "@": "@daily",
    "0 " * 600: "1000",
}


@pytest.mark.parametrize("expression", BAD)
def test_what_cannot_be_used_is_refused_with_help(expression: str) -> None:
    with pytest.raises(cron.Invalid) as caught:
        cron.parse(expression)
    assert BAD[expression] in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "name", ["Europe/Nowhere", "europe/berlin", "", "UTC ", "../UTC", "Europe", "posix/UTC", "x" * 500]
)
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(cron.Invalid, match="unknown time zone"):
        cron.zone(name)


def test_a_misspelt_zone_gets_a_suggestion() -> None:
    with pytest.raises(cron.Invalid, match="did you mean 'Europe/Berlin'"):
        cron.zone("europe/Berlin")


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Asia/Kathmandu"]
)
def test_a_known_zone_is_found(name: str) -> None:
    assert cron.zone(name).key == name


# Clock changes


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # 2026-03-29: 02:00 becomes 03:00 at 01:00 UTC
        ("0 30 2 * * *", BERLIN, "2026-03-28 12:00", ["29 01:00", "30 00:30"]),
        ("0 30 2 * * *", BERLIN, "2026-03-29 00:59", ["29 01:00", "30 00:30"]),
        ("0 30 2 * * *", BERLIN, "2026-03-29 01:00", ["30 00:30"]),
        ("0 30 2 * * *", BERLIN, "2026-03-29 01:10", ["30 00:30"]),
        ("0 */10 2 * * *", BERLIN, "2026-03-29 00:00", ["29 01:00", "30 00:00"]),
        ("0 0 2,3 * * *", BERLIN, "2026-03-29 00:00", ["29 01:00", "30 00:00"]),
        ("0 30 1-3 * * *", BERLIN, "2026-03-29 00:00", ["29 00:30", "29 01:00", "29 01:30"]),
        ("0 */10 * * * *", BERLIN, "2026-03-29 00:45", ["29 00:50", "29 01:00", "29 01:10"]),
        ("0 30 */2 * * *", BERLIN, "2026-03-28 23:45", ["29 02:30", "29 04:30"]),
        ("0 30 2/12 * * *", BERLIN, "2026-03-28 23:45", ["29 12:30", "30 00:30"]),
        # 2026-10-25: 03:00 becomes 02:00 at 01:00 UTC
        ("0 30 2 * * *", BERLIN, "2026-10-24 12:00", ["25 00:30", "26 01:30"]),
        ("0 30 2 * * *", BERLIN, "2026-10-25 00:30", ["26 01:30"]),
        ("0 30 2 * * *", BERLIN, "2026-10-25 01:10", ["26 01:30"]),
        ("* * 2 * * *", BERLIN, "2026-10-25 01:10", ["26 01:00"]),
        ("0 */30 2,3 * * *", BERLIN, "2026-10-25 00:30", ["25 02:00", "25 02:30"]),
        ("0 */30 * * * *", BERLIN, "2026-10-25 00:00", ["25 00:30", "25 01:00", "25 01:30"]),
        ("0 30 */2 * * *", BERLIN, "2026-10-25 00:00", ["25 00:30", "25 01:30", "25 03:30"]),
        ("0 30 2/12 25 10 ? 2026", BERLIN, "2026-10-25 00:30", ["25 01:30", "25 13:30"]),
        ("0 30 2/22 25 10 ? 2026", BERLIN, "2026-10-25 00:30", ["25 01:30"]),
        ("0 30 2 25 10 ? 2026", BERLIN, "2026-10-25 00:30", []),
        # half an hour, and a whole day that does not exist
        ("0 15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00", ["03 15:30", "04 15:15"]),
        ("0 45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00", ["04 14:45", "05 15:15"]),
        ("0 0 12 30 12 *", "Pacific/Apia", "2011-12-29 12:00", ["30 10:00", "29 22:00"]),
        ("0 0 */12 30 12 *", "Pacific/Apia", "2011-12-29 12:00", ["29 10:00", "29 22:00"]),
    ],
)  # fmt: skip
def test_clock_changes(expression: str, zone: str, after: str, expected: list[str]) -> None:
    found = firings(expression, zone, instant(after + ":00"), max(1, len(expected)))
    assert [text[8:16] for text in found] == expected


# An independent reading of the rules


Matches = Callable[[datetime], bool]


def reading(expression: str) -> tuple[Matches, bool]:
    """Whether a wall time matches, and whether the hour field has a star or a step."""
    fields = expression.split()
    sets = [numbers(text, *bounds) for text, bounds in zip(fields, BOUNDS, strict=False)]
    restricted = [fields[place] not in ("*", "?") for place in (3, 5)]

    def matches(wall: datetime) -> bool:
        day, weekday = wall.day in sets[3], wall.isoweekday() in sets[5] or wall.isoweekday() % 7 in sets[5]
        dates = (day or weekday) if all(restricted) else (day and weekday)
        years = len(sets) == 6 or wall.year in sets[6]
        clock = wall.second in sets[0] and wall.minute in sets[1] and wall.hour in sets[2]
        return clock and dates and years and wall.month in sets[4]

    return matches, any(mark in fields[2] for mark in "*?/")


BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6), (1970, 2199))


def numbers(text: str, low: int, high: int) -> set[int]:
    """The values of a field without names."""
    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = (f"{low}-{high}" if span in ("*", "?") else span).partition("-")
        end = int(last) if last else high if step else int(first)
        found.update(range(int(first), end + 1, int(step or 1)))
    return found


def expected_firings(expression: str, zone: str, begin: int, end: int, margin: int) -> list[int]:
    """The firing times in [begin, end), out of every second from ``margin`` seconds before to after it."""
    matches, rhythm = reading(expression)
    where = ZoneInfo(zone)
    walls = {
        moment: datetime.fromtimestamp(moment, where).replace(tzinfo=None)
        for moment in range(begin - margin, end + margin)
    }
    if rhythm:
        return [moment for moment, wall in walls.items() if begin <= moment < end and matches(wall)]
    first_pass: dict[datetime, int] = {}
    for moment, wall in walls.items():
        first_pass.setdefault(wall, moment)
    found = set()
    moments = iter(sorted(first_pass.items()))
    wall, at = next(moments)
    for following, then in moments:
        if matches(wall):
            found.add(at)
        skipped = (wall + timedelta(seconds=number) for number in range(1, int((following - wall).total_seconds())))
        if any(map(matches, skipped)):
            found.add(then)
        wall, at = following, then
    return sorted(moment for moment in found if begin <= moment < end)


def all_between(expression: str, zone: str, begin: int, end: int) -> list[int]:
    """The firing times in [begin, end) by the code under test."""
    found = []
    after: float = begin - 1
    while (following := cron.next_after(expression, zone, after)) is not None and following < end:
        assert following > after
        found.append(int(following))
        after = following
    return found


#: a zone and an hour at which its clock changes: by an hour, by half, twice a month, at midnight, backwards in summer
CHANGES = [
    (BERLIN, "2026-03-29 01:00"),
    (BERLIN, "2026-10-25 01:00"),
    ("America/New_York", "2027-03-14 07:00"),
    ("America/New_York", "2027-11-07 06:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Europe/Dublin", "2026-10-25 01:00"),
    ("America/Havana", "2026-03-08 05:00"),
    ("America/Havana", "2026-11-01 05:00"),
    ("Antarctica/Troll", "2026-03-29 01:00"),
    ("Antarctica/Troll", "2026-10-25 01:00"),
    ("Africa/Casablanca", "2026-02-15 02:00"),
    ("Africa/Casablanca", "2026-03-22 02:00"),
    ("Asia/Tehran", "2022-03-21 20:30"),
    ("Asia/Tehran", "2022-09-21 19:30"),
    ("Asia/Pyongyang", "2018-05-04 15:00"),
    ("Asia/Kathmandu", "2026-01-01 00:00"),
]


def a_field(rng: random.Random, low: int, high: int, *, rare: bool = False) -> str:
    """Some way to write a field."""
    one, two = sorted((rng.randint(low, high), rng.randint(low, high)))
    forms = [
        str(one),
        f"{one},{two}",
        f"{one}-{two}",
        f"{one}-{two}/{rng.randint(1, 9)}",
        f"{one}/{rng.randint(1, 20)}",
    ]
    forms += [f"*/{rng.randint(2, 30)}", f"{two},{one}-{two}/2"]
    return rng.choice(forms if rare else [*forms, "*", "*", "?"])


def around(rng: random.Random, moment: datetime) -> str:
    """An expression that is likely to fire near this wall time."""
    hours = [
        str(moment.hour),
        f"{moment.hour - 1},{moment.hour}" if moment.hour else "0,1",
        "*",
        "*/2",
        "1/3",
        "0-4",
        "0-4/2",
        "2",
    ]
    days = ["*", "?", str(moment.day), "*/2", f"1-{moment.day}"]
    weekday = moment.isoweekday() % 7
    weekdays = ["*", "*", "?", str(weekday), f"{weekday}-6", "1-5"]
    months = ["*", str(moment.month), "1/1"]
    seconds = ["0", "0", "*/20", "59", "0-10/5", "*"]
    parts = [rng.choice(seconds), a_field(rng, 0, 59), *map(rng.choice, (hours, days, months, weekdays))]
    return " ".join([*parts, *rng.choice(([], [], [str(moment.year)], ["*"]))])


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_every_second_around_a_clock_change_is_as_the_rules_say(zone: str, change: str) -> None:
    rng = random.Random(f"{zone} {change}")
    middle = int(instant(change + ":00"))
    for _ in range(12):
        expression = around(rng, datetime.fromtimestamp(middle + rng.randint(-7200, 7200), ZoneInfo(zone)))
        begin = middle - rng.randint(600, 9000)
        end = middle + rng.randint(600, 9000)
        expected = expected_firings(expression, zone, begin, end, 4 * 3600)
        assert all_between(expression, zone, begin, end) == expected, (expression, zone, begin)


def test_random_expressions_in_quiet_times_are_as_the_rules_say() -> None:
    rng = random.Random(20260101)
    for _ in range(60):
        parts = [a_field(rng, low, high) for low, high in BOUNDS[:6]]
        expression = " ".join(parts)
        begin = int(instant("2026-06-01 00:00:00")) + rng.randint(0, 86400 * 365)
        expected = expected_firings(expression, "Asia/Kolkata", begin, begin + 7200, 0)
        assert all_between(expression, "Asia/Kolkata", begin, begin + 7200) == expected, (expression, begin)


def days_with(expression: str, zone: str, years: Iterable[int]) -> list[float]:
    """The firing times of an expression whose time of day is fixed, by looking at every day of these years."""
    matches, _ = reading(expression)
    second, minute, hour = map(int, expression.split()[:3])
    found = []
    for year in years:
        day = datetime(year, 1, 1, hour, minute, second)
        while day.year == year:
            if matches(day):
                found.append(first_instant(day, ZoneInfo(zone)))
            day += timedelta(days=1)
    return found


def first_instant(wall: datetime, where: ZoneInfo) -> float:
    """The first instant with this wall time or, when it is skipped, with the next one there is."""
    while (moment := wall.replace(tzinfo=where)).astimezone(UTC).astimezone(where).replace(tzinfo=None) != wall:
        wall += timedelta(minutes=1)
    return moment.timestamp()


@pytest.mark.parametrize("seed", range(20))
def test_long_stretches_of_years_are_as_the_rules_say(seed: int) -> None:
    rng = random.Random(seed)
    zone = rng.choice([BERLIN, "America/Sao_Paulo", "Pacific/Auckland", "America/Havana", "UTC", "Africa/Cairo"])
    time_of_day = f"0 {rng.choice([0, 15, 30])} {rng.choice([0, 1, 2, 3, 23])}"
    days = [a_field(rng, low, high, rare=number == 0) for number, (low, high) in enumerate(BOUNDS[3:6])]
    first = rng.randint(2000, 2150)
    years = rng.choice(["", f" {first + 5}/{rng.randint(1, 9)}", f" {first},{first + 9}", f" {first}-{first + 5}"])
    expression = f"{time_of_day} {' '.join(days)}{years}"
    expected = days_with(expression, zone, range(first, first + 12))
    begin, end = instant(f"{first}-01-01 00:00:00", zone), instant(f"{first + 12}-01-01 00:00:00", zone)
    assert list(map(float, all_between(expression, zone, int(begin), int(end)))) == expected, expression


# The latest one that was missed


@pytest.mark.parametrize("zone", [BERLIN, "Australia/Lord_Howe", "UTC"])
def test_the_latest_firing_time_of_a_stretch(zone: str) -> None:
    rng = random.Random(zone)
    for _ in range(30):
        begin = int(instant("2026-03-28 12:00:00")) + rng.randint(0, 86400 * 240)
        expression = around(rng, datetime.fromtimestamp(begin, ZoneInfo(zone)))
        end = begin + rng.randint(1, 20_000)
        expected = all_between(expression, zone, begin + 1, end + 1)
        assert cron.latest(expression, zone, begin, end) == (expected[-1] if expected else None), (expression, begin)
    assert cron.latest("* * * * * *", zone, 0.0, 1.7e9 + 0.5) == 1.7e9
    assert cron.latest("* * * * * *", zone, 100.0, 100.9) is None
    assert cron.latest("* * * * * *", zone, 100.5, 101.0) == 101.0


# In words


WORDS = {
    "* * * * * *": "Every second",
    "0 */5 * * * *": "Every 5 minutes",
    "0 0 2 * * *": "At 02:00",
    "0 30 9 * * mon-fri": "At 09:30, Monday through Friday",
    "0 0 0 13 * fri": "At 00:00, on day 13 of the month, or on Friday",
    "0 0 0 1-31 * fri": "At 00:00, between day 1 and 31 of the month, or on Friday",
    "0 0 0 * * fri-sun": "At 00:00, Friday through Sunday",
    "0 0 0 * * 0,7": "At 00:00, only on Sunday",
    "0 0 0 * * 1/2": "At 00:00, only on Monday, Wednesday, and Friday",
    "0 0 0 */1 * mon": "At 00:00, only on Monday",
    "0 5-5 * * * *": "At 5 minutes past the hour",
    "0 5/10 * * * *": "Every 10 minutes, starting at 5 minutes past the hour",
    "0 */15,7 * * * *": "At 0, 7, 15, 30, and 45 minutes past the hour",
    "0 0 0 29 2 ? 2028": "At 00:00, on day 29 of the month, only in February, only in 2028",
    "0 0 0 1 1 * 2026/2": "At 00:00, on day 1 of the month, only in January, every 2 years, 2026 through 2199",
    "@hourly": "Every hour",
    "@weekly": "At 00:00, only on Sunday",
}


@pytest.mark.parametrize("expression", WORDS)
def test_plain_english(expression: str) -> None:
    assert cron.parse(expression).describe() == WORDS[expression]


def test_every_expression_can_be_said_in_words() -> None:
    rng = random.Random(7)
    for _ in range(300):
        expression = " ".join(a_field(rng, low, high) for low, high in BOUNDS[: rng.choice((6, 7))])
        words = cron.parse(expression).describe()
        assert words and "9999" not in words and "None" not in words, expression


def test_plain_english_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, assay.app; print([*{'cron_descriptor'} & set(sys.modules)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
