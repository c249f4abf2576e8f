"""What a source's windows remember, packed: against plain lists, for any 64-bit numbers, saved at any point."""

from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from librt.strings import BytesWriter

from schemas.avro import Cursor
from schemas.instrument import Rules
from schemas.record import Candle, Quote, Tick, Trade, fields
from topology.stages import candle, dedup
from topology.stages.candle import MINUTE, Candles, Minute
from topology.stages.dedup import Dedup
from topology.stages.spike import Ordered, Window, mad

ANY = st.integers(-(2**63), 2**63 - 1)
MIDS = st.one_of(st.integers(1, 20), st.integers(1, 10**15))
SAVED = st.sets(st.integers(0, 200), max_size=4)  # after which steps the state is saved and loaded
START = 29_000_000 * MINUTE
State = TypeVar("State", Window, Ordered, Dedup)
thorough = settings(max_examples=150, deadline=None, derandomize=True)


def loaded(state: State) -> State:
    """The same after a save."""
    out = BytesWriter()
    state.dump(out)
    again, cursor = type(state)(), Cursor(out.getvalue(), 0)
    again.load(cursor)
    assert cursor.at == len(out.getvalue())
    return again


@thorough
@given(st.lists(MIDS, min_size=1, max_size=200), SAVED)
def test_a_window_knows_its_median_and_the_median_deviation(mids: list[int], saved: set[int]) -> None:
    window, ordered = Window(), Ordered()
    for number, mid in enumerate(mids):
        window.add(mid)
        ordered.add(mid)
        last = mids[max(0, number - 49) : number + 1]
        median = sorted(last)[len(last) // 2]
        assert window.median() == ordered.median() == median
        assert mad(ordered) == sorted(abs(each - median) for each in last)[len(last) // 2]
        if number in saved:
            window, ordered = loaded(window), loaded(ordered)


TIMES = st.integers(1, 40)
NUMBERS = st.one_of(st.integers(1, 2), ANY)
IDS = st.sampled_from(["", "", "1", "21", "11", "a-very-long-id-of-a-broker-with-ÄÖÜ"])
QUOTES = st.builds(Quote, st.just("X"), st.just("s"), TIMES, st.just(0), *[NUMBERS] * 4, IDS)
TRADES = st.builds(Trade, st.just("X"), st.just("s"), TIMES, st.just(0), NUMBERS, NUMBERS, IDS)


def identity(tick: Tick) -> Any:
    """What makes a tick the same as another."""
    if tick.id:
        return tick.id
    if isinstance(tick, Quote):
        return tick.ts_event, tick.bid, tick.ask, tick.bid_size, tick.ask_size
    return tick.ts_event, tick.price, tick.size


@thorough
@given(st.lists(st.one_of(QUOTES, TRADES), max_size=200), SAVED)
def test_an_identity_among_the_last_32_is_known(ticks: list[Tick], saved: set[int]) -> None:
    state, kept = Dedup(), list[Any]()
    for number, tick in enumerate(ticks):
        known = identity(tick) in kept[-32:]
        assert dedup.repeats(state, tick, tick.ts_event) == known
        if not known:
            kept.append(identity(tick))
        state.newest = max(state.newest, tick.ts_event)
        if number in saved:
            state = loaded(state)


PRICES = fields(Candle)[4:23]
CANDLES = st.lists(
    st.tuples(st.integers(0, 15), st.lists(ANY, min_size=len(PRICES), max_size=len(PRICES))), min_size=1, max_size=20
)


@thorough
@given(CANDLES)
def test_a_fetched_candle_comes_back_as_it_was_whatever_its_numbers(fetched: list[tuple[int, list[int]]]) -> None:
    """Each is taken in, packed and saved; a second one for the minute, which is not needed, opens it again."""
    state = Candles("X", "s", Rules(), None)
    now = START + 16 * MINUTE
    kept: dict[int, list[int]] = {}
    for at, numbers in fetched:
        start = START + at * MINUTE
        row = candle.replace(state, now, Candle("X", "s", start, 0, *numbers, 0))
        assert (row is None) == (start in kept)
        kept.setdefault(start, numbers)
        out = BytesWriter()
        candle.dump(state, out)
        state = Candles("X", "s", Rules(), None)
        candle.load(state, Cursor(out.getvalue(), 0))
    for start, numbers in kept.items():
        assert candle.replace(state, now, Candle("X", "s", start, 0, *[0] * len(PRICES), 0)) is None
        [minute] = [each for each in state.minutes if each.start == start]
        assert [getattr(minute, name) for name in PRICES] == numbers


@st.composite
def closed(draw: st.DrawFn) -> list[Minute]:
    """Minutes one after the other: their ticks at any nanosecond or at whole milliseconds, their mids midway or not."""
    minutes = []
    for at in sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=6))):
        minute = Minute(START + at * MINUTE + draw(st.sampled_from([0, 0, 1])))
        minute.revision = draw(st.integers(0, 5))
        unit = draw(st.sampled_from([1, 1_000_000]))
        for names, first, last in (
            (QUOTED, "quote_first", "quote_last"),
            (TRADED, "trade_first", "trade_last"),
        ):
            if draw(st.booleans()):
                for name in names:
                    setattr(minute, name, draw(st.integers(1, 10**15)))
                for key in (first, last):
                    setattr(minute, key, (minute.start + unit * draw(st.integers(0, 59_000)), draw(st.integers(0, 99))))
        if draw(st.booleans()):
            for side in ("open", "high", "low", "close"):
                middle = (getattr(minute, f"bid_{side}") + getattr(minute, f"ask_{side}")) * 5
                setattr(minute, f"mid_{side}", middle)
        minutes.append(minute)
    return minutes


SIDES = ("open", "high", "low", "close")
QUOTED = ["ticks", *(f"{price}_{side}" for price in ("bid", "ask", "mid") for side in SIDES)]
TRADED = ["trades", "volume", *SIDES]
KEPT = ["start", "revision", *QUOTED, *TRADED, "quote_first", "quote_last", "trade_first", "trade_last"]


@thorough
@given(closed())
def test_a_closed_minute_comes_back_with_every_number_and_time(minutes: list[Minute]) -> None:
    """The times of its first and last tick decide what a late one changes."""
    again = candle._unpacked(candle._packed(minutes, 0))
    assert [[getattr(each, name) for name in KEPT] for each in again] == [
        [getattr(each, name) for name in KEPT] for each in minutes
    ]
