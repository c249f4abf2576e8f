"""HistData, generic ASCII ticks: ``20120201 000003660,1.306600,1.306770,0`` (date HHMMSSmmm,bid,ask,volume).

Times are New York standard time all year: UTC-05 without daylight saving. The volume is always 0.
"""

import re
from collections.abc import Callable

from connectors.archive.number import MS, Mantissas, Minutes, Zone
from schemas.record import Quote

TIMEZONE = "UTC-05"
LINE = re.compile(r"\d{8} \d{9},", re.ASCII)


def parser(symbol: str, source: str, prices: Mantissas, zone: Zone) -> Callable[[str], Quote]:
    """Make the function that reads one line; it raises ValueError with the reason."""
    minutes = Minutes(r"(\d{4})(\d\d)(\d\d) (\d\d)(\d\d)", zone)

    def quote(line: str) -> Quote:
        fields = line.split(",")
        if len(fields) != 4:
            raise ValueError(f"{len(fields)} fields; a tick has 4 (time,bid,ask,volume)")
        time, bid, ask, _ = fields
        ms = int(time[13:])
        if len(time) != 18 or not 0 <= ms < 60_000:
            raise ValueError(f"{time!r} is not YYYYMMDD HHMMSSmmm")
        at = minutes[time[:13]] + ms * MS
        return Quote(symbol, source, at, at, prices[bid], prices[ask])

    return quote
