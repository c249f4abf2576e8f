"""LEAN ticks: ``YYYYMMDD_quote.zip`` and ``YYYYMMDD_trade.zip``, one CSV without a header in each.

    quote    ms,bid,ask    or    ms,bid,bid_size,ask,ask_size
    trade    ms,price,size

``ms`` counts from local midnight (a fraction is allowed); the day stands in the file name. Prices are in
price units: forex and crypto. The equity classes (prices times 10,000, further columns) are refused.
The time zone is LEAN's data time zone of that market: UTC, except UTC-05 for its FXCM files.
"""

import re
from collections.abc import Callable
from pathlib import PurePath

from connectors.archive.number import HOUR, MS, QUARTER, Mantissas, Zone, exact, local
from schemas.record import Quote, Tick, Trade

DAY = 24 * HOUR
NAME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:_\w+?)??(?:_(tick|second|minute))?_(quote|trade)\.\w+", re.ASCII)
ZONES = {"fxcm": "UTC-05"}  # by market, which is a folder in LEAN


def timezone(path: PurePath, source: str) -> str:
    """LEAN's own time zone for a file in its folders, or of a source named like its market."""
    return next((zone for market, zone in ZONES.items() if market == source or market in path.parts), "UTC")


def day(name: str) -> int:
    """The midnight of a file, in local ns. Raises ValueError."""
    found = NAME.fullmatch(name)
    if not found:
        raise ValueError("LEAN ticks need a name like 20140501_quote.zip")
    return local(*map(int, found.groups()[:3]))


def check(name: str) -> None:
    """Raise ValueError for LEAN's bars, whose zips have the same names as those of ticks."""
    found = NAME.fullmatch(name)
    if found and found.group(4) not in (None, "tick"):
        raise ValueError(f"{found.group(4)} bars, not ticks: give the zip of LEAN's folder tick/")


def parser(
    name: str, symbol: str, source: str, prices: Mantissas, sizes: Mantissas, zone: Zone
) -> Callable[[str], Tick]:
    """Make the function that reads one line; it raises ValueError with the reason."""
    midnight = day(name)

    def time(text: str) -> int:
        try:
            ns = int(text) * MS
        except ValueError:
            ns = exact(text, 6)
        if not 0 <= ns < DAY:
            raise ValueError(f"{text} ms is not within a day")
        at = midnight + ns
        return at - zone[at // QUARTER]

    def quote(line: str) -> Quote:
        fields = line.split(",")
        if len(fields) == 3:
            at = time(fields[0])
            return Quote(symbol, source, at, at, prices[fields[1]], prices[fields[2]])
        if len(fields) == 5:
            ms, bid, bid_size, ask, ask_size = fields
            at = time(ms)
            return Quote(symbol, source, at, at, prices[bid], prices[ask], sizes[bid_size], sizes[ask_size])
        raise ValueError(f"{len(fields)} fields; a quote has 3 (ms,bid,ask) or 5 (with sizes)")

    def trade(line: str) -> Trade:
        fields = line.split(",")
        if len(fields) != 3:
            raise ValueError(f"{len(fields)} fields; a trade has 3 (ms,price,size)")
        at = time(fields[0])
        return Trade(symbol, source, at, at, prices[fields[1]], sizes[fields[2]])

    return trade if "_trade." in name else quote
