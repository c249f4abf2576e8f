"""Minute candles, each row computed anew from every tick of its minute."""

from schemas import flags
from schemas.record import Best, Candle, Quote, Trade, asdict
from tests.reference.model import MINUTE, Minute, Series, Source, Symbol
from tests.reference.validity import x_of


def feed(symbol: Symbol, name: str, record: Quote | Trade | Best, offset: int) -> list[Candle]:
    """Put a tick or a best record into its minute; the rows that are due at once."""
    series = symbol.series.setdefault(name, Series(name))
    start = record.ts_event - record.ts_event % MINUTE
    minute = open_minute(symbol, series, start)
    order = (record.ts_event, getattr(record, "seq", 0), offset)
    if isinstance(record, Trade):
        minute.trades.append((*order, record.price, record.size))
    else:
        mid = record.consensus if isinstance(record, Best) else x_of(record)
        minute.quotes.append((*order, record.bid, record.ask, mid))
    rows = []
    if minute.revision >= 0:
        rows.append(write(symbol, series, minute, minute.revision + 1))
    elif symbol.instrument.rules.provisional_ns > 0:
        minute.changed = True
        if series.provisional_at is None:
            step = symbol.instrument.rules.provisional_ns
            series.provisional_at = (symbol.now // step + 1) * step
    series.watermark = max(series.watermark, record.ts_event)
    over = series.watermark - symbol.instrument.rules.lateness_ns - MINUTE
    due = [this for this in in_order(series) if this.revision < 0 and this.start <= over]
    return rows + [write(symbol, series, this, 0) for this in due]


def in_order(series: Series) -> list[Minute]:
    """The minutes that are remembered, oldest first."""
    return [series.minutes[start] for start in sorted(series.minutes)]


def open_minute(symbol: Symbol, series: Series, start: int) -> Minute:
    """Find or open a minute; opening one forgets those that are over 16 minutes past."""
    if start not in series.minutes:
        for old in list(series.minutes):
            if old + MINUTE + 16 * MINUTE < symbol.now:
                del series.minutes[old]
        series.minutes[start] = Minute(start)
    return series.minutes[start]


def deadlines(symbol: Symbol, series: Series) -> list[int]:
    """When rows are due."""
    grace = symbol.instrument.rules.grace_ns
    due = [minute.start + MINUTE + grace for minute in in_order(series) if minute.revision < 0]
    return due if series.provisional_at is None else [*due, series.provisional_at]


def fire(symbol: Symbol, series: Series) -> list[Candle]:
    """Write the rows due now: first the final ones, then the provisional ones."""
    over = symbol.now - symbol.instrument.rules.grace_ns - MINUTE
    final = [minute for minute in in_order(series) if minute.revision < 0 and minute.start <= over]
    rows = [write(symbol, series, minute, 0) for minute in final]
    if series.provisional_at is not None and series.provisional_at <= symbol.now:
        series.provisional_at = None
        rows += [write(symbol, series, minute, -1) for minute in in_order(series) if minute.changed]
    return rows


def write(symbol: Symbol, series: Series, minute: Minute, revision: int) -> Candle:
    """The row of a minute as it is now."""
    if revision == 0:
        minute.partial = is_partial(symbol.sources.get(series.name), minute.start)
    minute.revision, minute.changed = revision, False
    row = row_of(symbol, series, minute)
    if minute.replaced is not None:
        return fold(minute.replaced, row, revision)
    return row


def row_of(symbol: Symbol, series: Series, minute: Minute) -> Candle:
    """Sort what was fed and read the row off."""
    quotes, trades = sorted(minute.quotes, key=lambda q: q[:3]), sorted(minute.trades, key=lambda t: t[:3])
    values: dict[str, int] = {}
    for column, prefix in ((3, "bid_"), (4, "ask_"), (5, "mid_")):
        values |= four([quote[column] for quote in quotes], prefix)
    values |= four([trade[3] for trade in trades], "")
    return Candle(
        symbol=symbol.instrument.symbol,
        source=series.name,
        start=minute.start,
        revision=minute.revision,
        volume=sum(trade[4] for trade in trades),
        ticks=len(quotes),
        trades=len(trades),
        flags=flags.PARTIAL if lacks_coverage(symbol, series, minute) else 0,
        **values,
    )


def four(prices: list[int], prefix: str) -> dict[str, int]:
    """Open, high, low and close of prices in order."""
    if not prices:
        return {}
    values = {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1]}
    return {prefix + name: value for name, value in values.items()}


def is_partial(source: Source | None, start: int) -> bool:
    """Whether a source was not covered for the whole minute; ``best`` has no source."""
    if source is None:
        return False
    gaps = [gap for gap in source.gaps[-16:] if gap[0] < start + MINUTE and (gap[1] == 0 or gap[1] > start)]
    return bool(gaps) or source.first_recv > start


def lacks_coverage(symbol: Symbol, series: Series, minute: Minute) -> bool:
    """What the row says: of a final minute what was so when it became final."""
    return minute.partial if minute.revision >= 0 else is_partial(symbol.sources.get(series.name), minute.start)


def fold(replaced: Candle, late: Candle, revision: int) -> Candle:
    """A late tick after backfill: the broker's own row, widened."""
    values = asdict(replaced)
    for prefix in ("bid_", "ask_", "mid_", ""):
        if getattr(late, prefix + "open") == 0:
            continue
        if values[prefix + "open"] == 0:
            for name in ("open", "high", "low", "close"):
                values[prefix + name] = getattr(late, prefix + name)
        values[prefix + "high"] = max(values[prefix + "high"], getattr(late, prefix + "high"))
        values[prefix + "low"] = min(values[prefix + "low"], getattr(late, prefix + "low"))
    for name in ("volume", "ticks", "trades"):
        values[name] += getattr(late, name)
    values["revision"] = revision
    return Candle(**values)


def backfill(symbol: Symbol, candle: Candle) -> list[Candle]:
    """A row fetched from the source: it fills a minute that is absent or partial."""
    series = symbol.series.setdefault(candle.source, Series(candle.source))
    values = asdict(candle)
    values["flags"] = flags.BACKFILL
    minute = series.minutes.get(candle.start)
    is_old = candle.start + 17 * MINUTE < symbol.now
    if minute is None or is_old:
        values["revision"] = 0
        row = Candle(**values)
        if not is_old:
            minute = open_minute(symbol, series, candle.start)
            minute.revision, minute.replaced = 0, row
        return [row]
    if minute.replaced is not None or not lacks_coverage(symbol, series, minute):
        series.dropped += 1
        return []
    values["revision"] = minute.revision + 1
    minute.revision, minute.replaced, minute.changed = minute.revision + 1, Candle(**values), False
    minute.quotes, minute.trades = [], []
    return [minute.replaced]
