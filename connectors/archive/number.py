"""Decimal text and time text to integers, remembered: a day of ticks has few distinct prices and minutes.

Looking up a known text takes 30 ns, reading it exactly takes 600 ns.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import DecimalException
from zoneinfo import ZoneInfo

from schemas.instrument import I64_MAX, ConfigError, mantissa

MS = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
QUARTER = 15 * MINUTE  # no zone changes its offset at another time of day
REMEMBERED = 50_000  # texts; a file with more distinct ones starts over
LONGEST = 28  # digits that decimal arithmetic keeps exactly
PLAIN = 18  # digits that fit 64 bits


class Mantissas(dict[str, int]):
    """Decimal text to its integer at a scale, as ``schemas.instrument.mantissa`` gives it.

    ``divisor``: the text is this many times the canonical price. Indexing raises ValueError with a
    reason where the text is no such number.
    """

    def __init__(self, scale: int, *, divisor: int = 1, negative: bool = True) -> None:
        super().__init__()
        self._scale = scale
        self._divisor = divisor
        self._negative = negative

    def __missing__(self, text: str) -> int:
        value = exact(text, self._scale)
        if value < 0 and not self._negative:
            raise ValueError(f"{text!r} is negative")
        value, rest = divmod(value, self._divisor)
        if rest:
            raise ValueError(f"{text!r} / {self._divisor} is finer than {self._scale} decimals")
        if len(self) >= REMEMBERED:
            self.clear()
        self[text] = value
        return value


def exact(text: str, scale: int) -> int:
    """Read decimal text as an integer at a scale. Raises ValueError, and nothing else."""
    if not text.strip():
        raise ValueError("a field is empty")
    if len(text) > LONGEST:
        raise ValueError(f"{text[:LONGEST]!r}... is longer than {LONGEST} characters")
    whole, _, part = text.partition(".")
    if len(part) > scale:
        part = part.rstrip("0")
    digits = whole + part
    if len(part) <= scale and len(digits) <= PLAIN and digits.isascii() and digits.isdigit():
        value: int = int(digits) * 10 ** (scale - len(part))  # most of all texts: a fifth of the time
        if value <= I64_MAX:
            return value
    try:
        return mantissa(text, scale)
    except DecimalException as error:  # an exponent that no decimal can hold
        raise ValueError(f"{text!r} does not fit 64 bits at scale {scale}") from error


class Zone(dict[int, int]):
    """The offset from UTC in ns, by the number of quarters of an hour since 1970 in local time.

    Indexing raises ValueError for a local time that the zone skips or has twice.
    """

    def __init__(self, name: str) -> None:
        """Take ``UTC``, ``UTC-05``, ``UTC+05:30`` or an IANA name. Raises ConfigError."""
        super().__init__()
        self.name = name
        self._zone = _zone(name)

    def __missing__(self, quarter: int) -> int:
        naive = datetime(1970, 1, 1) + timedelta(minutes=15 * quarter)  # noqa: DTZ001 - local by intention
        early, late = [naive.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1)]
        offset = early.utcoffset()
        if offset is None or offset != late.utcoffset():
            back = early.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None)
            what = "comes twice" if back == naive else "does not exist"
            raise ValueError(f"{naive:%Y-%m-%d %H:%M} {what} in {self.name}: the clocks change")
        self[quarter] = ns = offset // timedelta(microseconds=1) * 1000
        return ns

    def utc(self, local: int) -> int:
        """Local ns since 1970 to UTC ns since the epoch."""
        return local - self[local // QUARTER]


def _zone(name: str) -> ZoneInfo | timezone:
    fixed = re.fullmatch(r"UTC([+-])(\d{1,2})(?::?(\d\d))?", name)
    if fixed:
        sign, hours, minutes = fixed.groups(default="0")
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        if offset < timedelta(hours=24):
            return timezone(-offset if sign == "-" else offset)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"{name!r} is no time zone: give UTC, a fixed offset as UTC-05, or a name as America/New_York"
        ) from error


class Minutes(dict[str, int]):
    """The text of a local date and minute to UTC ns. ``shape`` has year, month, day, hour, minute as groups."""

    def __init__(self, shape: str, zone: Zone) -> None:
        super().__init__()
        self._shape = re.compile(shape, re.ASCII)
        self._zone = zone

    def __missing__(self, text: str) -> int:
        found = self._shape.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is not the time it should begin with")
        at = local(*map(int, found.groups()))
        if len(self) >= REMEMBERED:
            self.clear()
        self[text] = ns = self._zone.utc(at)
        return ns


def local(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    """Nanoseconds since 1970 of a local time. Raises ValueError where there is no such date."""
    at = datetime(year, month, day, hour, minute, tzinfo=UTC)  # as if it were UTC: the zone comes off later
    return int(at.timestamp()) * SECOND
