"""Drop what a source sends twice.

The same id is the same tick; without an id, the same time, prices and sizes are. The same price at a
newer time is news, not a duplicate. Ids repeat and go backwards in practice (polygon-io/issues #56, #241),
so sequence numbers are only used to see holes, against the highest seen.

Of the last ticks a hash each is kept, of the id, or of time, prices and sizes. That a tick is taken for one of 32
others has a chance of 2^-56 (of numbers the hash takes 61 bits: above those there are neither times nor prices).
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
QUOTE: Final = 1
TRADE: Final = 7  # is no quote, whatever its numbers


@mypyc_attr(acyclic=True)
class Dedup:
    """What is remembered of one source: its last identities, newest event time and highest sequence."""

    def __init__(self) -> None:
        self.last = vec[i64](capacity=WINDOW)
        self.at: i64 = 0  # where the next identity goes once the window is full
        self.newest: i64 = 0  # ns
        self.highest: i64 = 0

    def dump(self, out: BytesWriter) -> None:
        """Append the state, oldest identity first."""
        last = self.last
        n: i64 = len(last)
        put_long(out, n)
        put_long(out, self.newest)
        put_long(out, self.highest)
        i: i64 = 0
        while i < n:
            put_long(out, last[(self.at + i) % n])
            i += 1

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        n = cursor.long()
        self.newest = cursor.long()
        self.highest = cursor.long()
        for _ in range(n):
            _remember(self, cursor.long())


def repeats(state: Dedup, tick: Tick, event: i64) -> bool:
    """Whether this tick is among the last ones; if not it is remembered. ``event`` in ns."""
    identity: i64
    if tick.id:
        identity = _hash(tick.id)
    elif isinstance(tick, Quote):
        identity = _mixed(_mixed(_mixed(QUOTE, event), tick.bid), tick.ask)
        identity = _mixed(_mixed(identity, tick.bid_size), tick.ask_size)
    else:
        identity = _mixed(_mixed(_mixed(TRADE, event), tick.price), tick.size)
    if (tick.id or event <= state.newest) and _knows(state, identity):
        return True
    _remember(state, identity)
    return False


def _mixed(hash: i64, value: i64) -> i64:
    mixed: i64 = ((hash ^ value) * PRIME) & BITS
    return mixed ^ (mixed >> 31)


def _hash(id: str) -> i64:
    hash: i64 = len(id)
    for letter in id:
        hash = _mixed(hash, ord(letter))
    return hash


def _remember(state: Dedup, identity: i64) -> None:
    n: i64 = len(state.last)
    if n < WINDOW:
        state.last = append(state.last, identity)
        return
    at: i64 = state.at
    state.last[at] = identity
    state.at = at + 1 if at + 1 < n else 0


def _knows(state: Dedup, identity: i64) -> bool:
    last = state.last
    n: i64 = len(last)
    i: i64 = 0
    while i < n:
        if last[i] == identity:
            return True
        i += 1
    return False


def hole(state: Dedup, seq: i64) -> bool:
    """Whether sequence numbers were skipped before this one (0: the tick has none)."""
    if seq <= 0:
        return False
    skipped = 0 < state.highest < seq - 1
    if seq > state.highest:
        state.highest = seq
    return skipped
