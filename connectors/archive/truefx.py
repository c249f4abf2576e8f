"""TrueFX: ``EUR/USD,20130101 22:00:00.123,1.31924,1.31945`` (pair,time,bid,ask), in UTC."""

import re
from collections.abc import Callable

from connectors.archive.number import MS, Mantissas, Minutes, Zone
from schemas.record import Quote

LINE = re.compile(r"[A-Z]{3}/[A-Z]{3},\d{8} \d\d:", re.ASCII)


def parser(symbol: str, source: str, prices: Mantissas, zone: Zone) -> Callable[[str], Quote]:
    """Make the function that reads one line; it raises ValueError with the reason."""
    minutes = Minutes(r"(\d{4})(\d\d)(\d\d) (\d\d):(\d\d)", zone)

    def quote(line: str) -> Quote:
        fields = line.split(",")
        if len(fields) != 4:
            raise ValueError(f"{len(fields)} fields; a tick has 4 (pair,time,bid,ask)")
        pair, time, bid, ask = fields
        if pair.replace("/", "") != symbol:
            raise ValueError(f"a price of {pair}, not of {symbol}")
        ms = int(time[15:17] + time[18:])
        if len(time) != 21 or time[14] != ":" or time[17] != "." or not 0 <= ms < 60_000:
            raise ValueError(f"{time!r} is not YYYYMMDD HH:MM:SS.mmm")
        at = minutes[time[:14]] + ms * MS
        return Quote(symbol, source, at, at, prices[bid], prices[ask])

    return quote
