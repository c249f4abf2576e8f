"""Drop what a source sends twice.

The same id is the same tick; without an id, the same time, prices and sizes are. The same price at a
newer time is news, not a duplicate. Ids repeat and go backwards in practice (polygon-io/issues #56, #241),
so sequence numbers are only used to see holes, against the highest seen.
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor, put_long, put_string
from schemas.record import Quote, Tick

WINDOW: Final = 32  # a reconnect replays a handful; a day-old repeat is LATE anyway
NUMBERS: Final = 5  # of one tick: its time, prices and sizes
TRADE: Final = i64(-(2**62))  # in place of a trade's fourth and fifth, which no quote has


@mypyc_attr(acyclic=True)
class Dedup:
    """What is remembered of one source: its last identities, newest event time and highest sequence."""

    def __init__(self) -> None:
        self.ids: list[str] = []  # of the last ticks; empty: it has none
        self.numbers = vec[i64](capacity=WINDOW * NUMBERS)  # of the same ticks
        self.at: i64 = 0  # where the next identity goes once the window is full
        self.newest: i64 = 0  # ns
        self.highest: i64 = 0

    def dump(self, out: BytesWriter) -> None:
        """Append the state, oldest identity first; of times and prices only what differs from those before."""
        put_long(out, len(self.ids))
        put_long(out, self.newest)
        put_long(out, self.highest)
        numbers = self.numbers
        before: i64 = 0
        n: i64 = len(self.ids)
        i: i64 = 0
        while i < n:
            place = (self.at + i) % n
            put_string(out, self.ids[place])
            place *= NUMBERS
            put_long(out, numbers[place] ^ before)
            put_long(out, numbers[place + 1])
            put_long(out, numbers[place + 2] ^ numbers[place + 1])
            put_long(out, numbers[place + 3])
            put_long(out, numbers[place + 4])
            before = numbers[place]
            i += 1

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        n = cursor.long()
        self.newest = cursor.long()
        self.highest = cursor.long()
        event: i64 = 0
        for _ in range(n):
            id = cursor.string()
            event ^= cursor.long()
            a = cursor.long()
            _remember(self, id, event, a, cursor.long() ^ a, cursor.long(), cursor.long())


def repeats(state: Dedup, tick: Tick, event: i64) -> bool:
    """Whether this tick is among the last ones; if not it is remembered. ``event`` in ns."""
    if isinstance(tick, Quote):
        return _repeats(state, tick.id, event, tick.bid, tick.ask, tick.bid_size, tick.ask_size)
    return _repeats(state, tick.id, event, tick.price, tick.size, TRADE, TRADE)


def _repeats(state: Dedup, id: str, event: i64, a: i64, b: i64, c: i64, d: i64) -> bool:
    if id:
        if id in state.ids:
            return True
    elif event <= state.newest and _knows(state, event, a, b, c, d):
        return True
    _remember(state, id, event, a, b, c, d)
    return False


def _remember(state: Dedup, id: str, event: i64, a: i64, b: i64, c: i64, d: i64) -> None:
    place = state.at
    numbers = state.numbers
    if len(state.ids) < WINDOW:
        place = len(state.ids)
        state.ids.append(id)
        for _ in range(NUMBERS):
            numbers = append(numbers, i64(0))
        state.numbers = numbers
    else:
        state.ids[place] = id
        state.at = place + 1 if place < WINDOW - 1 else 0
    place *= NUMBERS
    numbers[place] = event
    numbers[place + 1] = a
    numbers[place + 2] = b
    numbers[place + 3] = c
    numbers[place + 4] = d


def _knows(state: Dedup, event: i64, a: i64, b: i64, c: i64, d: i64) -> bool:
    numbers = state.numbers
    n: i64 = len(numbers)
    i: i64 = 0
    while i < n:
        if (
            numbers[i] == event
            and numbers[i + 1] == a
            and numbers[i + 2] == b
            and numbers[i + 3] == c
            and numbers[i + 4] == d
            and not state.ids[i // NUMBERS]
        ):
            return True
        i += NUMBERS
    return False


def hole(state: Dedup, seq: i64) -> bool:
    """Whether sequence numbers were skipped before this one (0: the tick has none)."""
    if seq <= 0:
        return False
    skipped = 0 < state.highest < seq - 1
    if seq > state.highest:
        state.highest = seq
    return skipped
