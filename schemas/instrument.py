"""What is known of each instrument: scales, calendar, rules, and how each source names it.

Read from ``instruments.yaml`` beside this file, or from the file named by ``TICKLOOM_INSTRUMENTS``.
"""

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal

import msgspec

DEFAULT = Path(__file__).parent / "instruments.yaml"
SECOND = 1_000_000_000
I64_MAX = 2**63 - 1
I64_DIGITS = 19
MAX_PRICE = 10**14  # so that a hundred times a mid, and a price in basis points, fit 64 bits
Strategy = Literal["best", "priority", "latest", "weighted", "consensus"]
Calendar = Literal["always", "fx", "fx-oanda", "metals", "us-equity"]


class ConfigError(ValueError):
    """A setting that cannot work; the text says which and what to do."""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The thresholds of the stages. Prices are mantissas in units of the price scale."""

    spike_mad: int = 10  # suspect beyond this many median absolute deviations (BNHLS 2009),
    spike_ticks: int = 20  # and this many price units (a quiet market must not reject one tick),
    spike_spreads: int = 5  # and this many median spreads
    hold_ns: int = 5 * SECOND  # a suspect that nothing confirms is rejected after this
    max_spread_bps: int = 100
    outlier_bps: int = 20  # a source this far off the median mid takes no part in best price
    ttl_ns: int = 5 * SECOND  # floor of the time a quote stays good without a sign of life
    ttl_max_ns: int = 60 * SECOND  # and its cap: it follows the source's own pace in between
    silence_ns: int = 300 * SECOND  # a source without peers or heartbeats is stale after this
    skew_ns: int = 100_000_000  # legs closer than this in time are equally fresh
    lateness_ns: int = 2 * SECOND  # a minute waits this long, by event time, for its late ticks
    grace_ns: int = 10 * SECOND  # and this long, by stream time, for a silent source
    provisional_ns: int = 5 * SECOND  # at most one provisional candle of a source in this time; 0: none


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one source carries the instrument. Lower priority is better."""

    symbol: str = ""
    divisor: Annotated[int, msgspec.Meta(ge=1)] = 1  # the source's price unit is this many of ours
    priority: int = 100
    weight: int = 1
    calendar: Calendar | Literal[""] = ""  # empty: the instrument's
    contiguous: bool = False  # its sequence numbers have no holes of their own


class Instrument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tradable thing under its canonical symbol."""

    symbol: str
    asset_class: str
    price_scale: int
    calendar: Calendar
    size_scale: int = 0
    min_price: int = 1
    max_price: int = MAX_PRICE
    strategy: Strategy = "best"
    rules: Rules = Rules()
    sources: dict[str, Source] = {}

    def source(self, name: str) -> Source:
        """How a source carries it; one that is not configured gets the defaults."""
        return self.sources.get(name) or Source()


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    class_: str = msgspec.field(name="class")
    price_scale: int
    size_scale: int | None = None
    calendar: Calendar | None = None
    min_price: int = 1
    max_price: int = MAX_PRICE
    strategy: Strategy = "best"
    rules: dict[str, int] = {}
    sources: dict[str, Source] = {}


class _Class(msgspec.Struct, forbid_unknown_fields=True):
    calendar: Calendar
    size_scale: int = 0
    rules: dict[str, int] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    classes: dict[str, _Class]
    instruments: dict[str, _Entry]


def load(path: Path | None = None) -> dict[str, Instrument]:
    """Read the instruments by canonical symbol. Raises ConfigError with the place that is wrong."""
    import yaml  # 20 ms that only a process which reads the file should pay

    path = path or Path(os.environ.get("TICKLOOM_INSTRUMENTS") or DEFAULT)
    try:
        file = msgspec.convert(yaml.safe_load(path.read_text()), _File)
        return {symbol: _instrument(symbol, entry, file.classes) for symbol, entry in file.instruments.items()}
    except OSError as error:
        raise ConfigError(f"cannot read the instruments: {error}; set TICKLOOM_INSTRUMENTS") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _instrument(symbol: str, entry: _Entry, classes: dict[str, _Class]) -> Instrument:
    group = classes.get(entry.class_)
    if group is None:
        raise ConfigError(f"{symbol}: class {entry.class_!r} is not one of {', '.join(classes)}")
    size_scale = group.size_scale if entry.size_scale is None else entry.size_scale
    for name, scale in (("price_scale", entry.price_scale), ("size_scale", size_scale)):
        if not 0 <= scale <= 12:
            raise ConfigError(f"{symbol}: {name} {scale} is not between 0 and 12")
    if not 0 < entry.min_price <= entry.max_price <= MAX_PRICE:
        raise ConfigError(f"{symbol}: 0 < min_price <= max_price <= {MAX_PRICE} does not hold")
    try:
        rules = msgspec.convert({**group.rules, **entry.rules}, Rules)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{symbol}: rules: {error}") from error
    return Instrument(
        symbol=symbol,
        asset_class=entry.class_,
        price_scale=entry.price_scale,
        size_scale=size_scale,
        calendar=entry.calendar or group.calendar,
        min_price=entry.min_price,
        max_price=entry.max_price,
        strategy=entry.strategy,
        rules=rules,
        sources=entry.sources,
    )


def mantissa(text: str, scale: int) -> int:
    """Turn decimal text into an integer at a scale: ``("1.0912", 5)`` gives 109120.

    Raises ValueError where it is no number, not finite, finer than the scale or beyond 64 bits:
    a price is never rounded silently.
    """
    try:
        sign, digits, exponent = Decimal(text).as_tuple()  # exact, whatever the context's precision
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a number") from error
    if not isinstance(exponent, int):
        raise ValueError(f"{text!r} is not finite")
    whole = int("".join(map(str, digits)))
    shift = exponent + scale
    if whole and shift > I64_DIGITS:
        raise ValueError(f"{text!r} does not fit 64 bits at scale {scale}")
    if shift < 0:
        whole, rest = divmod(whole, 10 ** min(-shift, len(digits)))
        if rest or (whole and -shift > len(digits)):
            raise ValueError(f"{text!r} is finer than {scale} decimals")
    elif whole:
        whole *= 10**shift
    if whole > I64_MAX:
        raise ValueError(f"{text!r} does not fit 64 bits at scale {scale}")
    return -whole if sign else whole


def text(value: int, scale: int) -> str:
    """Write a mantissa as decimal text, exactly: ``(109120, 5)`` gives ``1.09120``."""
    return f"{Decimal(value).scaleb(-scale):.{max(scale, 0)}f}"
