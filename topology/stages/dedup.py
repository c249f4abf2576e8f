"""Drop what a source sends twice.

The same id is the same tick; without an id, the same time, prices and sizes are. The same price at a
newer time is news, not a duplicate. Ids repeat and go backwards in practice (polygon-io/issues #56, #241),
so sequence numbers are only used to see holes, against the highest seen.

Of the last ticks two numbers each are kept: the time and a hash of the rest, or two hashes of the id. That two
different ticks of a source at the same nanosecond are taken for one has a chance of 2^-61 (above which prices are
none: of numbers the hash takes 61 bits).
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor, put_long
from schemas.record import Quote, Tick

WINDOW: Final = 32  # a reconnect replays a handful; a day-old repeat is LATE anyway
BITS: Final = 2**61 - 1  # of a hash: what compiled numbers of 64 bits and plain ones agree on
PRIME: Final = 0x1E3779B97F4A7C15
OTHER: Final = 0x12B2AE3D27D4EB4F
TRADE: Final = 7  # a trade is no quote, whatever its numbers
NOTHING: Final = 1


@mypyc_attr(acyclic=True)
class Dedup:
    """What is remembered of one source: its last identities, newest event time and highest sequence."""

    def __init__(self) -> None:
        self.last = vec[i64](capacity=2 * WINDOW)  # pairs
        self.at: i64 = 0  # where the next identity goes once the window is full
        self.newest: i64 = 0  # ns
        self.highest: i64 = 0

    def dump(self, out: BytesWriter) -> None:
        """Append the state, oldest identity first; of the first numbers only what differs from the one before."""
        last = self.last
        n: i64 = len(last)
        put_long(out, n // 2)
        put_long(out, self.newest)
        put_long(out, self.highest)
        before: i64 = 0
        i: i64 = 0
        while i < n:
            place = (self.at + i) % n
            put_long(out, last[place] ^ before)
            put_long(out, last[place + 1])
            before = last[place]
            i += 2

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        n = cursor.long()
        self.newest = cursor.long()
        self.highest = cursor.long()
        first: i64 = 0
        for _ in range(n):
            first ^= cursor.long()
            _remember(self, first, cursor.long())


def repeats(state: Dedup, tick: Tick, event: i64) -> bool:
    """Whether this tick is among the last ones; if not it is remembered. ``event`` in ns."""
    first: i64 = event
    second: i64 = 0
    if tick.id:
        first = _hash(tick.id, PRIME)
        second = _hash(tick.id, OTHER)
    elif isinstance(tick, Quote):
        second = _mixed(_mixed(_mixed(_mixed(NOTHING, tick.bid), tick.ask), tick.bid_size), tick.ask_size)
    else:
        second = _mixed(_mixed(TRADE, tick.price), tick.size)
    if (tick.id or event <= state.newest) and _knows(state, first, second):
        return True
    _remember(state, first, second)
    return False


def _mixed(hash: i64, value: i64) -> i64:
    mixed: i64 = ((hash ^ value) * PRIME) & BITS
    return mixed ^ (mixed >> 31)


def _hash(id: str, prime: i64) -> i64:
    hash: i64 = len(id)
    for letter in id:
        hash = ((hash ^ ord(letter)) * prime) & BITS
        hash ^= hash >> 31
    return hash


def _remember(state: Dedup, first: i64, second: i64) -> None:
    last = state.last
    n: i64 = len(last)
    if n < 2 * WINDOW:
        state.last = append(append(last, first), second)
        return
    at: i64 = state.at
    last[at] = first
    last[at + 1] = second
    state.at = at + 2 if at + 2 < n else 0


def _knows(state: Dedup, first: i64, second: i64) -> bool:
    last = state.last
    n: i64 = len(last)
    i: i64 = 0
    while i < n:
        if last[i] == first and last[i + 1] == second:
            return True
        i += 2
    return False


def hole(state: Dedup, seq: i64) -> bool:
    """Whether sequence numbers were skipped before this one (0: the tick has none)."""
    if seq <= 0:
        return False
    skipped = 0 < state.highest < seq - 1
    if seq > state.highest:
        state.highest = seq
    return skipped
