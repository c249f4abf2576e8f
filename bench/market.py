"""The input: a seeded market, written into market.raw as connectors and importers would write it.

Same arguments, same bytes. Prices walk like those of a currency pair; each source adds its own skew, spread and
delay; three in a hundred ticks come again exactly as they were. Clock records follow every second of stream time.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from connectors.runtime.producer import RawProducer
from schemas.codec import Codec
from schemas.record import Quote, replace

SECOND: Final = 1_000_000_000
START: Final = 1_736_154_000 * SECOND  # a Monday, 9:00 UTC
SOURCES: Final = ("alfa", "bravo", "delta", "echo")
WEIGHTS: Final = (4, 3, 2, 1)  # how often each speaks
REPEATED: Final = 0.031  # of the ticks: 3 % of all that arrive
TELL_EVERY: Final = 10_000

INSTRUMENT: Final = "  {name}: {{class: fx, price_scale: 5}}\n"
INSTRUMENTS: Final = """\
classes:
  fx: {calendar: always, size_scale: 0, rules: {max_spread_bps: 100, outlier_bps: 10}}
instruments:
"""


class Market(msgspec.Struct, frozen=True):
    """How much of it there is. With ``even`` every source speaks as often as the others."""

    symbols: int
    ticks: int
    seconds: float  # of event time that they span
    even: bool = False
    seed: int = 7
    sources: int = len(SOURCES)  # of each symbol


def symbol(number: int) -> str:
    """The name of a symbol."""
    return f"SYM{number:03d}"


def write_instruments(path: Path, symbols: int) -> None:
    """Write the instruments file that a worker needs for so many symbols."""
    path.write_text(INSTRUMENTS + "".join(INSTRUMENT.format(name=symbol(number)) for number in range(symbols)))


def quotes(market: Market) -> Iterator[Quote]:
    """Make the ticks in the order in which they arrive."""
    rng = random.Random(market.seed)
    uniform, between, choices = rng.random, rng.randrange, rng.choices
    sources = [*SOURCES, *(f"source{number:02d}" for number in range(len(SOURCES), market.sources))][: market.sources]
    weights = [1 if market.even else WEIGHTS[number % len(WEIGHTS)] for number in range(market.sources)]
    mids = [between(90_000, 150_000) for _ in range(market.symbols)]
    pairs = [(number, source) for number in range(market.symbols) for source in sources]
    skews = {pair: between(-1, 2) for pair in pairs}
    spreads = {pair: between(5, 12) for pair in pairs}
    newest = dict.fromkeys(pairs, 0)
    numbers = dict.fromkeys(pairs, 0)
    repeats: dict[tuple[int, str], list[tuple[int, Quote]]] = {}
    step = market.seconds * SECOND / market.ticks
    now, made = START, 0
    while made < market.ticks:
        now += int(step * (0.5 + uniform()))
        number = between(market.symbols)
        pair = (number, choices(sources, weights)[0])
        mids[number] += between(-2, 3)
        spread = spreads[pair] + between(0, 2)
        bid = mids[number] + skews[pair] - spread // 2
        event = max(now - between(1_000_000, 9_000_000), newest[pair] + 1_000)
        newest[pair] = event
        count = numbers[pair] = numbers[pair] + 1
        sizes = (between(1, 100) * 10_000, between(1, 100) * 10_000)
        quote = Quote(symbol(number), pair[1], event, now, bid, bid + spread, *sizes, "", count)
        yield quote
        made += 1
        waiting = repeats.setdefault(pair, [])
        while waiting and waiting[0][0] <= count and made < market.ticks:
            now += int(step * (0.5 + uniform()))
            yield replace(waiting.pop(0)[1], ts_recv=now)
            made += 1
        if uniform() < REPEATED:
            waiting.append((count + between(0, 8), quote))
            waiting.sort(key=_due)


def load(broker: str, run: str, market: Market, tell: Callable[[int], None]) -> None:
    """Write the market into a run's market.raw, with its clock; ``tell`` hears how many ticks are there."""
    producer = RawProducer(broker, run, Codec())
    second = START + SECOND
    for made, quote in enumerate(quotes(market), 1):
        while quote.ts_recv >= second:
            for partition in range(producer.partitions):
                producer.clock(partition, second)
            second += SECOND
        producer.send(quote)
        if made % TELL_EVERY == 0:
            tell(made)
    producer.flush()


def _due(waiting: tuple[int, Quote]) -> int:
    return waiting[0]
