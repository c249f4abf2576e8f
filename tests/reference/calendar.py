"""When a market is open: New York sessions, written out day by day.

A trading day D (Monday to Friday) of fx runs from 17:00 of the day before to 17:00 of D, New York time.
Closed on the trading days 25 December and 1 January; early closes are not modelled.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
#: calendar: (day of the open relative to D, open, close), all New York
HOURS = {
    "fx": (-1, time(17, 0), time(17, 0)),
    "fx-oanda": (-1, time(17, 3), time(16, 58)),
    "metals": (-1, time(18, 0), time(17, 0)),
    "us-equity": (0, time(9, 30), time(16, 0)),
}
#: Days on which the NYSE did not trade, from its published list; 2022 to 2026 only.
NYSE_CLOSED = """
2022-01-17 2022-02-21 2022-04-15 2022-05-30 2022-06-20 2022-07-04 2022-09-05 2022-11-24 2022-12-26
2023-01-02 2023-01-16 2023-02-20 2023-04-07 2023-05-29 2023-06-19 2023-07-04 2023-09-04 2023-11-23 2023-12-25
2024-01-01 2024-01-15 2024-02-19 2024-03-29 2024-05-27 2024-06-19 2024-07-04 2024-09-02 2024-11-28 2024-12-25
2025-01-01 2025-01-20 2025-02-17 2025-04-18 2025-05-26 2025-06-19 2025-07-04 2025-09-01 2025-11-27 2025-12-25
2026-01-01 2026-01-19 2026-02-16 2026-04-03 2026-05-25 2026-06-19 2026-07-03 2026-09-07 2026-11-26 2026-12-25
"""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(moment: datetime) -> int:
    """An aware time as nanoseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def is_holiday(calendar: str, day: date) -> bool:
    """Whether a weekday has no session."""
    if calendar == "us-equity":
        return day.isoformat() in NYSE_CLOSED
    return (day.month, day.day) in ((12, 25), (1, 1))


@cache
def session(calendar: str, day: date) -> tuple[int, int] | None:
    """Open and close of one trading day, None where there is none."""
    if day.weekday() >= 5 or is_holiday(calendar, day):
        return None
    shift, opens, closes = HOURS[calendar]
    first = datetime.combine(day + timedelta(days=shift), opens, NEW_YORK)
    last = datetime.combine(day, closes, NEW_YORK)
    return nanoseconds(first.astimezone(UTC)), nanoseconds(last.astimezone(UTC))


@cache
def sessions(calendar: str, today: date) -> list[tuple[int, int]]:
    """The sessions from ten days before to ten days after, those that touch joined."""
    joined: list[tuple[int, int]] = []
    for number in range(-10, 11):
        this = session(calendar, today + timedelta(days=number))
        if this is None:
            continue
        if joined and joined[-1][1] == this[0]:
            joined[-1] = (joined[-1][0], this[1])
        else:
            joined.append(this)
    return joined


def _around(calendar: str, at: int) -> list[tuple[int, int]]:
    return sessions(calendar, (EPOCH + timedelta(microseconds=at // 1000)).date())


def is_open(calendar: str, at: int) -> bool:
    """Whether the market trades at a time."""
    return calendar == "always" or any(first <= at < last for first, last in _around(calendar, at))


def next_change(calendar: str, at: int) -> int | None:
    """The first open or close after a time; None: never."""
    if calendar == "always":
        return None
    return min(edge for pair in _around(calendar, at) for edge in pair if edge > at)
