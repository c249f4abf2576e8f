"""Hold a price that jumps away from its own recent past until something confirms or refutes it.

A tick is judged against the trailing median of its source's last 50 accepted mids, never against mean and
standard deviation: a spike inflates those. Outside the band it is held, not dropped:

    mid  ----.--.---.--------------.--.---      the next tick returns: the held one was a SPIKE
                       x held

    mid  ----.--.---.                           three more agree (or another live source is there
                       x  x  x  x .  .  .       already): a real jump, all are RELEASED in order

Bands: BNHLS 2009 (10 MAD of 50), Brownlees & Gallo 2006 (a floor in price units for quiet markets); the
hold-and-confirm rule is that of MetaTrader-type servers. Exact rules: docs/stages.md.
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor, put_boolean, put_long, put_tick
from schemas.instrument import Rules
from schemas.record import Quote, Trade
from topology.stages.validity import apart

WINDOW: Final = 50
ENOUGH: Final = 5  # below this many nothing is judged
CONFIRM: Final = 4  # the first held and three that agree
RESEED_NS: Final = 600_000_000_000

HOLD: Final = 1
RETURNED: Final = 2  # the held ones were spikes; accept this one
CONFIRMED: Final = 3  # accept the held ones and this one


@mypyc_attr(acyclic=True)
class Held:
    """A suspect, with the numbers that made it one and its own source offset."""

    def __init__(self, tick: Quote | Trade, x: i64, median: i64, band: i64, offset: i64) -> None:
        self.tick = tick
        self.x: i64 = x
        self.median: i64 = median
        self.band: i64 = band
        self.offset: i64 = offset


NOTHING: Final[list[Held]] = []  # what nearly all hold


@mypyc_attr(acyclic=True)
class Window:
    """The last 50 numbers, in order of arrival."""

    def __init__(self) -> None:
        self.ring = vec[i64](capacity=WINDOW)
        self.at: i64 = 0  # of the oldest, once the window is full

    def add(self, value: i64) -> None:
        """Take a number in; the oldest leaves."""
        if len(self.ring) < WINDOW:
            self.ring = append(self.ring, value)
        else:
            at: i64 = self.at
            self.ring[at] = value
            self.at = at + 1 if at < WINDOW - 1 else 0

    def median(self) -> i64:
        """The middle number; 0 where there is none."""
        ordered = sorted(self.ring)
        return ordered[len(ordered) // 2] if ordered else 0

    def clear(self) -> None:
        """Forget all."""
        self.ring = vec[i64](capacity=WINDOW)
        self.at = 0

    def dump(self, out: BytesWriter) -> None:
        """Append the numbers in order of arrival, each as what differs from the one before."""
        ring = self.ring
        n: i64 = len(ring)
        put_long(out, n)
        before: i64 = 0
        i: i64 = 0
        while i < n:
            value = ring[(self.at + i) % n]
            put_long(out, value ^ before)
            before = value
            i += 1

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        self.clear()
        value: i64 = 0
        for _ in range(cursor.long()):
            value ^= cursor.long()
            self.add(value)


@mypyc_attr(acyclic=True)
class Ordered(Window):
    """The same, and in order of size, for what is asked at every tick."""

    def __init__(self) -> None:
        super().__init__()
        self.ordered = vec[i64](capacity=WINDOW)

    def add(self, value: i64) -> None:
        """Take a number in; the oldest leaves."""
        n: i64 = len(self.ring)
        if n < WINDOW:
            self.ring = append(self.ring, value)
            self.ordered = append(self.ordered, value)
            move(self.ordered, n, value)
        else:
            at: i64 = self.at
            place = position(self.ordered, self.ring[at])
            self.ring[at] = value
            self.at = at + 1 if at < WINDOW - 1 else 0
            move(self.ordered, place, value)

    def median(self) -> i64:
        """The middle number; 0 where there is none."""
        n: i64 = len(self.ordered)
        if n == 0:
            return 0
        return self.ordered[n // 2]

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self.ordered = vec[i64](capacity=WINDOW)


@mypyc_attr(acyclic=True)
class Spike:
    """What is remembered of one source: mids, spreads, and the suspects being held."""

    def __init__(self, rules: Rules) -> None:
        self.mads: i64 = rules.spike_mad
        self.floor: i64 = rules.spike_ticks * 10
        self.spreads: i64 = rules.spike_spreads
        self.hold_ns: i64 = rules.hold_ns
        self.mids = Ordered()
        self.widths = Window()
        self.held = NOTHING
        self.deadline: i64 = 0  # when the held ones time out; 0: nothing is held
        self.level: i64 = 0  # of suspects that timed out; 0: none
        self.agreed: i64 = 0  # how many of those there were
        self.last: i64 = 0  # newest accepted x; 0: none since the window was seeded
        self.last_recv: i64 = 0
        self.reseed = False  # the session has closed since

    def dump(self, out: BytesWriter) -> None:
        """Append the state."""
        self.mids.dump(out)
        self.widths.dump(out)
        put_long(out, len(self.held))
        for held in self.held:
            put_tick(out, held.tick)
            put_long(out, held.x)
            put_long(out, held.median)
            put_long(out, held.band)
            put_long(out, held.offset)
        put_long(out, self.deadline)
        put_long(out, self.level)
        put_long(out, self.agreed)
        put_long(out, self.last)
        put_long(out, self.last_recv)
        put_boolean(out, self.reseed)

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        self.mids.load(cursor)
        self.widths.load(cursor)
        for _ in range(cursor.long()):
            keep(self, Held(cursor.tick(), cursor.long(), cursor.long(), cursor.long(), cursor.long()))
        self.deadline = cursor.long()
        self.level = cursor.long()
        self.agreed = cursor.long()
        self.last = cursor.long()
        self.last_recv = cursor.long()
        self.reseed = cursor.boolean()


def move(ordered: vec[i64], place: i64, value: i64) -> None:
    """Put ``value`` in its order instead of the number at ``place``, which leaves."""
    last: i64 = len(ordered) - 1
    while place > 0 and ordered[place - 1] > value:
        ordered[place] = ordered[place - 1]
        place -= 1
    while place < last and ordered[place + 1] < value:
        ordered[place] = ordered[place + 1]
        place += 1
    ordered[place] = value


def position(ordered: vec[i64], value: i64) -> i64:
    """Where ``value`` stands in sorted numbers."""
    low: i64 = 0
    high: i64 = len(ordered)
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


def band(state: Spike) -> i64:
    """How far from the median a mid may be, in mid units."""
    widest = max(state.floor, state.mads * mad(state.mids.ordered))
    return max(widest, state.spreads * state.widths.median())


def mad(ordered: vec[i64]) -> i64:
    """The median absolute deviation of sorted numbers: a walk outwards from the median, nearest first."""
    n: i64 = len(ordered)
    right: i64 = n // 2
    left: i64 = right - 1
    median: i64 = ordered[right]
    deviation: i64 = 0
    taken: i64 = 0
    while taken <= n // 2:
        if left < 0 or (right < n and ordered[right] - median <= median - ordered[left]):
            deviation = ordered[right] - median
            right += 1
        else:
            deviation = median - ordered[left]
            left -= 1
        taken += 1
    return deviation


def inside(state: Spike, x: i64) -> bool:
    """Whether a mid is near its source's recent past: within the band, of which most ticks need to know one part."""
    mids = state.mids
    if len(mids.ring) < ENOUGH:
        return True
    distance: i64 = apart(x, mids.median())
    if distance <= state.floor or distance <= state.mads * mad(mids.ordered):
        return True
    return distance <= state.spreads * state.widths.median()


def must_reseed(state: Spike, recv: i64) -> bool:
    """Whether the past no longer says anything about now."""
    if not state.reseed and recv - state.last_recv <= RESEED_NS:
        return False
    return len(state.mids.ring) > 0 or bool(state.held)


def is_third_level(state: Spike, x: i64) -> bool:
    """Whether a tick agrees neither with the past nor with those held."""
    return bool(state.held) and not inside(state, x) and apart(x, state.held[0].x) > band(state)


def judge(state: Spike, x: i64, agreed: bool) -> int:
    """Decide on a tick that is outside its band, or comes while others are held at its level.

    ``agreed``: another live source is at this level (docs/stages.md). The caller carries it out.
    """
    if state.held and inside(state, x):
        return RETURNED
    limit = band(state)
    first: i64 = state.held[0].x if state.held else x
    before: i64 = state.agreed if state.level and apart(first, state.level) <= limit else 0
    return CONFIRMED if agreed or before + len(state.held) + 1 >= CONFIRM else HOLD


def hold(state: Spike, tick: Quote | Trade, x: i64, recv: i64, offset: i64) -> None:
    """Hold a suspect."""
    limit = band(state)
    if not state.held:
        state.deadline = recv + state.hold_ns
        if apart(x, state.level) > limit:
            state.level = 0
            state.agreed = 0
    keep(state, Held(tick, x, state.mids.median(), limit, offset))


def keep(state: Spike, held: Held) -> None:
    """Add to the hold."""
    if not state.held:
        state.held = []
    state.held.append(held)


def accept(state: Spike, x: i64, width: i64, recv: i64) -> None:
    """Take a mid into the window (and a spread, where width >= 0)."""
    state.mids.add(x)
    if width >= 0:
        state.widths.add(width)
    state.last = x
    if recv > state.last_recv:
        state.last_recv = recv
    state.level = 0
    state.agreed = 0
    state.reseed = False


def take_held(state: Spike) -> list[Held]:
    """Empty the hold."""
    held = state.held
    state.held = NOTHING
    state.deadline = 0
    return held


def time_out(state: Spike) -> list[Held]:
    """Give up the held ones, but remember their level: a slow lone source is believed in the end."""
    held = take_held(state)
    same = state.level != 0 and apart(held[0].x, state.level) <= held[0].band
    state.agreed = (state.agreed if same else 0) + len(held)
    state.level = held[0].x
    return held


def seed(state: Spike) -> None:
    """Forget the past."""
    state.mids.clear()
    state.widths.clear()
    state.level = 0
    state.agreed = 0
    state.last = 0
    state.reseed = False
