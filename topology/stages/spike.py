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
from mypy_extensions import i32, i64, mypyc_attr, u8

from schemas.avro import Cursor, put_boolean, put_long, put_tick
from schemas.instrument import Rules
from schemas.record import Quote, Trade
from topology.stages.validity import apart

WINDOW: Final = 50
ENOUGH: Final = 5  # below this many nothing is judged
CONFIRM: Final = 4  # the first held and three that agree
RESEED_NS: Final = 600_000_000_000
MOST: Final = 2**31 - 1  # that four bytes hold

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
    """The last 50 numbers, in order of arrival: in four bytes each, while all of them fit."""

    def __init__(self) -> None:
        self.count: i64 = 0
        self.at: i64 = 0  # place of the oldest, once the window is full
        self.narrow = vec[i32](capacity=WINDOW)
        self.wide = vec[i64]()
        self.is_wide = False

    def get(self, place: i64) -> i64:
        """The number at a place."""
        return self.wide[place] if self.is_wide else i64(self.narrow[place])

    def add(self, value: i64) -> i64:
        """Take a number in, and give its place; the oldest leaves."""
        if not self.is_wide and (value > MOST or value < -MOST):
            self._widen()
        place: i64 = self.count
        if place == WINDOW:
            place = self.at
            self.at = place + 1 if place < WINDOW - 1 else 0
            if self.is_wide:
                self.wide[place] = value
            else:
                self.narrow[place] = i32(value)
            return place
        self.count = place + 1
        if self.is_wide:
            self.wide = append(self.wide, value)
        else:
            self.narrow = append(self.narrow, i32(value))
        return place

    def _widen(self) -> None:
        wide = vec[i64](capacity=WINDOW)
        for value in self.narrow:
            wide = append(wide, i64(value))
        self.wide = wide
        self.narrow = vec[i32]()
        self.is_wide = True

    def median(self) -> i64:
        """The middle number; 0 where there is none."""
        if self.count == 0:
            return 0
        ordered = sorted([self.get(place) for place in range(self.count)])
        return ordered[self.count // 2]

    def clear(self) -> None:
        """Forget all."""
        self.count = 0
        self.at = 0
        self.narrow = vec[i32](capacity=WINDOW)
        self.wide = vec[i64]()
        self.is_wide = False

    def dump(self, out: BytesWriter) -> None:
        """Append the numbers in order of arrival, each as what differs from the one before."""
        put_long(out, self.count)
        before: i64 = 0
        i: i64 = 0
        while i < self.count:
            value = self.get((self.at + i) % self.count)
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
    """The same, and their places in order of size, for what is asked at every tick."""

    def __init__(self) -> None:
        super().__init__()
        self.places = vec[u8](capacity=WINDOW)

    def add(self, value: i64) -> i64:
        """Take a number in, and give its place; the oldest leaves."""
        place = super().add(value)
        rank: i64 = 0
        if len(self.places) < self.count:
            rank = place
            self.places = append(self.places, u8(place))
        else:
            while i64(self.places[rank]) != place:
                rank += 1
        self._move(rank, value)
        return place

    def _move(self, rank: i64, value: i64) -> None:
        """Put the place of a number that has changed where it belongs by its size."""
        places = self.places
        place = places[rank]
        last: i64 = self.count - 1
        while rank > 0 and self.ranked(rank - 1) > value:
            places[rank] = places[rank - 1]
            rank -= 1
        while rank < last and self.ranked(rank + 1) < value:
            places[rank] = places[rank + 1]
            rank += 1
        places[rank] = place

    def ranked(self, rank: i64) -> i64:
        """The number of this rank: 0 is the smallest."""
        return self.get(i64(self.places[rank]))

    def median(self) -> i64:
        """The middle number; 0 where there is none."""
        return self.ranked(self.count // 2) if self.count > 0 else 0

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self.places = vec[u8](capacity=WINDOW)


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


def band(state: Spike) -> i64:
    """How far from the median a mid may be, in mid units."""
    widest = max(state.floor, state.mads * mad(state.mids))
    return max(widest, state.spreads * state.widths.median())


def mad(window: Ordered) -> i64:
    """The median absolute deviation of its numbers: a walk outwards from the median, nearest first."""
    n: i64 = window.count
    right: i64 = n // 2
    left: i64 = right - 1
    median: i64 = window.ranked(right)
    deviation: i64 = 0
    taken: i64 = 0
    while taken <= n // 2:
        if left < 0 or (right < n and window.ranked(right) - median <= median - window.ranked(left)):
            deviation = window.ranked(right) - median
            right += 1
        else:
            deviation = median - window.ranked(left)
            left -= 1
        taken += 1
    return deviation


def inside(state: Spike, x: i64) -> bool:
    """Whether a mid is near its source's recent past: within the band, of which most ticks need to know one part."""
    mids = state.mids
    if mids.count < ENOUGH:
        return True
    distance: i64 = apart(x, mids.median())
    if distance <= state.floor or distance <= state.mads * mad(mids):
        return True
    return distance <= state.spreads * state.widths.median()


def must_reseed(state: Spike, recv: i64) -> bool:
    """Whether the past no longer says anything about now."""
    if not state.reseed and recv - state.last_recv <= RESEED_NS:
        return False
    return state.mids.count > 0 or bool(state.held)


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
