"""Dukascopy ``.bi5``: one hour of ticks, LZMA over records of 20 bytes ``>IIIff``.

    ms since the hour, ask, bid (integers), ask volume, bid volume (float32, millions)

The hour is in the path, ``.../2012/11/03/07h_ticks.bi5``, where the month counts from zero: December. A file
of no bytes is an hour without ticks. All times are UTC. Prices are exact: an integer at Dukascopy's own
number of decimals, brought to ours. A volume is read as the shortest decimal that has the same float32
(1.13, not 1.12999999523), times a million; what is finer than our size scale is rounded half to even.
"""

import re
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePath

from connectors.archive.number import HOUR, MS, REMEMBERED, local
from schemas.instrument import I64_MAX, ConfigError, Instrument
from schemas.record import Quote

RECORD = struct.Struct(">IIIff")
PATH = re.compile(r"(?:.*/)?(\d{4})/(\d\d)/(\d\d)/(\d\d)h_ticks\.bi5", re.ASCII)
DECIMALS = {"metal": 3, "index": 3}  # by class
COINS = {"BTCUSD": 1, "ETHUSD": 1}
FX_DECIMALS = {  # by quote currency
    **dict.fromkeys(("USD", "EUR", "GBP", "CHF", "CAD", "AUD", "NZD"), 5),
    **dict.fromkeys(("JPY", "HUF"), 3),
}

Row = tuple[int, int, int, float, float]


def hour_in(path: PurePath) -> int:
    """The start of the hour that a path names, in ns. Raises ValueError."""
    found = PATH.fullmatch(path.as_posix())
    if not found:
        raise ValueError("no hour in its path (.../2012/11/03/07h_ticks.bi5): give --hour 2012-12-03T07")
    year, month, day, hour = map(int, found.groups())
    return local(year, month + 1, day, hour)


def hour_of(text: str) -> int:
    """The start of the hour in ``2012-12-03T07``, in ns. Raises ConfigError."""
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d)(?::00)?", text, re.ASCII)
    try:
        if found:
            return local(*map(int, found.groups()))
    except ValueError:
        pass  # no such date: the same answer
    raise ConfigError(f"{text!r} is no hour: write it as 2012-12-03T07, in UTC")


def decimals(instrument: Instrument) -> int:
    """How many decimals Dukascopy's integers have. Raises ConfigError where it is not known here."""
    symbol = instrument.symbol
    known = COINS.get(symbol, DECIMALS.get(instrument.asset_class))
    if known is None and instrument.asset_class == "fx":
        known = FX_DECIMALS.get(symbol[3:])
    if known is None:
        raise ConfigError(f"Dukascopy's number of decimals for {symbol} is not known: give --decimals")
    return known


def parser(
    symbol: str, source: str, hour: int, price: Callable[[int], int], volume: "Volumes"
) -> Callable[[Row], Quote]:
    """Make the function that reads one record; it raises ValueError with the reason."""

    def quote(row: Row) -> Quote:
        ms, ask, bid, ask_volume, bid_volume = row
        at = hour + ms * MS
        if not at < hour + HOUR:
            raise ValueError(f"{ms} ms is not within an hour")
        return Quote(symbol, source, at, at, price(bid), price(ask), volume[bid_volume], volume[ask_volume])

    return quote


def price(own_decimals: int, instrument: Instrument, divisor: int) -> Callable[[int], int]:
    """Make the exact conversion of Dukascopy's integers to ours; it raises ValueError."""
    up: int = 10 ** max(0, instrument.price_scale - own_decimals)
    down: int = 10 ** max(0, own_decimals - instrument.price_scale) * divisor

    def mantissa(value: int) -> int:
        whole, rest = divmod(value * up, down)
        if rest:
            raise ValueError(f"{value} at {own_decimals} decimals is finer than {instrument.price_scale}")
        return whole

    return mantissa


class Volumes(dict[float, int]):
    """Millions as float32 to an integer at a size scale. Indexing raises ValueError."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self._scale = scale

    def __missing__(self, millions: float) -> int:
        if not 0 <= millions < float("inf"):
            raise ValueError(f"{millions} is no volume")
        units = int(shortest(millions).scaleb(6 + self._scale).to_integral_value())
        if units > I64_MAX:
            raise ValueError(f"the volume {millions} does not fit 64 bits at scale {self._scale}")
        if len(self) >= REMEMBERED:
            self.clear()
        self[millions] = units
        return units


def shortest(value: float) -> Decimal:
    """The decimal with the fewest digits whose float32 is ``value``, itself a float32."""
    for digits in range(6, 10):  # six always survive float32, nine always suffice
        text = f"{value:.{digits}g}"
        if struct.unpack(">f", struct.pack(">f", float(text)))[0] == value:
            break
    return Decimal(text)


def describe(row: Row) -> str:
    """A record as text, for the dead letter."""
    return "ms={} ask={} bid={} ask_volume={:.9g} bid_volume={:.9g}".format(*row)
