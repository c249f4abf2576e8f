"""When is a market open? Sessions from the rules of New York's clock, correct across daylight saving.

FX trades from Sunday 17:00 to Friday 17:00 New York. A calendar gives, for a time, whether the session is
open and when that changes next, so that a weekend is never taken for a gap. Sources of the rules: LEAN's
market-hours database, OANDA's and CME's published hours (see docs/operating.md).
"""

from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")
SECOND: Final = 1_000_000_000
NEVER: Final = 2**62

#: The open and close of every trading day, Monday to Friday. It begins the day before where close <= open: Monday's on
#: Sunday at 17:00.
_FX: Final = (time(17), time(17))
_OANDA: Final = (time(17, 3), time(16, 58))
_METALS: Final = (time(18), time(17))
_EQUITY: Final = (time(9, 30), time(16))
_SPANS: Final[dict[str, tuple[time, time]]] = {
    "fx": _FX,
    "fx-oanda": _OANDA,
    "metals": _METALS,
    "us-equity": _EQUITY,
}
CALENDARS: Final = ("always", *_SPANS)


@cache
def _session(name: str, day: date) -> tuple[int, int] | None:
    """The trading day of a date as [open, close) in ns, or None on weekends and holidays."""
    if day.weekday() >= 5 or _is_holiday(name, day):
        return None
    opens, closes = _SPANS[name]
    begin = day if opens < closes else day - timedelta(days=1)
    return _ns(begin, opens), _ns(day, closes)


def _is_holiday(name: str, day: date) -> bool:
    if (day.month, day.day) in ((12, 25), (1, 1)):
        return True
    return name == "us-equity" and day in _equity_holidays(day.year)


@cache
def _equity_holidays(year: int) -> frozenset[date]:
    """Full-day NYSE holidays, by its rules in force since 2022; early closes are not modelled."""
    easter = _easter(year)
    fixed = [date(year, 6, 19), date(year, 7, 4)]
    days = {_observed(day) for day in fixed} | {_observed(date(year, 12, 25)), easter - timedelta(days=2)}
    new_year = date(year, 1, 1)
    if new_year.weekday() == 6:  # a New Year's Day on Saturday is not made up for
        days.add(date(year, 1, 2))
    days |= {_nth(year, 1, 0, 3), _nth(year, 2, 0, 3), _nth(year, 9, 0, 1), _nth(year, 11, 3, 4)}
    days.add(date(year, 5, 31) - timedelta(days=date(year, 5, 31).weekday()))  # the last Monday of May
    return frozenset(days)


def _observed(day: date) -> date:
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


def _nth(year: int, month: int, weekday: int, n: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))


def _easter(year: int) -> date:
    """Gregorian Easter Sunday (Meeus, Jones, Butcher)."""
    a, b, c = year % 19, year // 100, year % 100
    d = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    e = (32 + 2 * (b % 4) + 2 * (c // 4) - d - c % 4) % 7
    f = d + e - 7 * ((a + 11 * d + 22 * e) // 451) + 114
    return date(year, f // 31, f % 31 + 1)


def _ns(day: date, at: time) -> int:
    return int(datetime.combine(day, at, NEW_YORK).timestamp()) * SECOND


def session(name: str, now: int) -> tuple[bool, int]:
    """Whether the session of a calendar is open at ``now`` (ns), and when that changes next (ns)."""
    if name == "always":
        return True, NEVER
    day = datetime.fromtimestamp(now // SECOND, NEW_YORK).date() - timedelta(days=1)
    while True:
        span = _session(name, day)
        if span is not None and now < span[1]:
            if now >= span[0]:
                return True, _end_of(name, day, span[1])
            return False, span[0]
        day += timedelta(days=1)


def _end_of(name: str, day: date, close: int) -> int:
    """The close of the run of trading days that follow one another without a break."""
    span = _session(name, day + timedelta(days=1))
    while span is not None and span[0] == close:
        day, close = day + timedelta(days=1), span[1]
        span = _session(name, day + timedelta(days=1))
    return close
