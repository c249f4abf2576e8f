"""A CSV with a header line: the format for everything that has none of its own here.

    ts_event,bid,ask[,bid_size,ask_size][,id]    quotes
    ts_event,price,size[,id]                     trades

The columns may stand in any order; ``timestamp`` is taken for ``ts_event``. Fields are separated by commas and
not quoted. Times are ISO 8601 (``2013-01-01 22:00:00.295``; without an offset: in the file's time zone) or a
number since 1970 in UTC, by its size: below 1e10 seconds, below 1e13 ms, below 1e16 µs, else ns (in each unit
that covers May 1970 to 2262).
"""

import re
from collections.abc import Callable, Sequence

from connectors.archive.number import REMEMBERED, SECOND, Mantissas, Zone, exact, local
from schemas.instrument import I64_MAX
from schemas.record import Quote, Tick, Trade

QUOTE = ("ts_event", "bid", "ask")
SIZES = ("bid_size", "ask_size")
TRADE = ("ts_event", "price", "size")
LAYOUTS = (set(QUOTE), {*QUOTE, *SIZES}, set(TRADE))
ALIAS = {"timestamp": "ts_event"}
UNITS = ((10, 9), (13, 6), (16, 3))  # up to so many digits: ns are so many decimals finer
SECONDS_AT = 17  # behind 2013-01-01 22:00:
SECONDS = re.compile(r"([0-5]\d)(?:\.(\d{1,9}))?", re.ASCII)
ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):([0-5]\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)


def columns(header: str) -> list[str]:
    """The column names of a header line. Raises ValueError where it is not one of ours."""
    names = [name.strip().lower() for name in header.split(",")]
    names = [ALIAS.get(name, name) for name in names]
    if len(set(names)) != len(names) or set(names) - {"id"} not in LAYOUTS:
        raise ValueError(
            f"its header is {header.strip()[:80]!r}, not ts_event,bid,ask[,bid_size,ask_size][,id] "
            "or ts_event,price,size[,id]"
        )
    return names


def parser(
    header: str, symbol: str, source: str, prices: Mantissas, sizes: Mantissas, zone: Zone
) -> Callable[[str], Tick]:
    """Make the function that reads one line after this header; it raises ValueError with the reason."""
    names = columns(header)
    time = Times(zone).ns
    at_event, at_id = names.index("ts_event"), names.index("id") if "id" in names else None

    def split(line: str) -> list[str]:
        fields = line.rstrip("\r").split(",")
        if len(fields) != len(names):
            raise ValueError(f"{len(fields)} fields; the header has {len(names)}")
        return fields

    def quote(line: str) -> Quote:
        fields = split(line)
        at = time(fields[at_event])
        bid_size, ask_size = [sizes[fields[i]] for i in at_sizes] if at_sizes else [0, 0]
        own = "" if at_id is None else fields[at_id]
        return Quote(symbol, source, at, at, prices[fields[at_bid]], prices[fields[at_ask]], bid_size, ask_size, own)

    def trade(line: str) -> Trade:
        fields = split(line)
        at = time(fields[at_event])
        own = "" if at_id is None else fields[at_id]
        return Trade(symbol, source, at, at, prices[fields[at_price]], sizes[fields[at_size]], own)

    if "price" in names:
        at_price, at_size = names.index("price"), names.index("size")
        return trade
    at_bid, at_ask = names.index("bid"), names.index("ask")
    at_sizes = [names.index(name) for name in SIZES if name in names]
    return quote


class Times:
    """Time text to UTC ns; see the rule above."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._minutes: dict[str, int] = {}  # what stands before the seconds, where no offset stands behind them

    def ns(self, text: str) -> int:
        """Read one time. Raises ValueError."""
        start = self._minutes.get(text[:SECONDS_AT])
        rest = None if start is None else SECONDS.fullmatch(text, SECONDS_AT)
        if start is not None and rest is not None:
            ns = start + seconds_ns(*rest.groups(""))
        else:
            found = ISO.fullmatch(text.strip())
            ns = self._iso(text.strip(), found.groups("")) if found else since_1970(text)
        if not 0 < ns <= I64_MAX:
            raise ValueError(f"{text!r} is not a time between 1970 and 2262")
        return ns

    def _iso(self, text: str, fields: Sequence[str]) -> int:
        *minute, second, fraction, offset = fields
        start = local(*map(int, minute))
        if offset:
            start -= offset_ns(offset)
        else:
            start = self._zone.utc(start)
            if len(self._minutes) >= REMEMBERED:
                self._minutes.clear()
            self._minutes[text[:SECONDS_AT]] = start
        return start + seconds_ns(second, fraction)


def seconds_ns(whole: str, fraction: str) -> int:
    """Seconds and up to nine decimals of them to ns."""
    return int(whole) * SECOND + int(fraction.ljust(9, "0"))


def since_1970(text: str) -> int:
    """A number since 1970 to ns, its unit taken from its size. Raises ValueError."""
    whole = text.strip().lstrip("-").partition(".")[0]
    digits = len(whole) if whole.isdecimal() else 0  # of no number at all: exact() says so
    return exact(text, next((scale for limit, scale in UNITS if digits <= limit), 0))


def offset_ns(text: str) -> int:
    """``Z``, ``+05``, ``-05:30`` to ns."""
    if text == "Z":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    ns = (int(digits[:2]) * 60 + int(digits[2:])) * 60 * SECOND
    return -ns if text[0] == "-" else ns
