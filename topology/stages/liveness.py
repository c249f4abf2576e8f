"""Is a source alive, and which stretches of it are missing?

A heartbeat proves "unchanged and alive". A source that falls silent while its peers go on is stale: its
subscription may be open, but nothing comes. A source that falls silent with everybody else is only quiet. A
weekend is not a gap. Exact rules: docs/stages.md.

    alive ---- ttl ----> silent: peers went on? -> stale, a gap opens at the end of known coverage
                                 nobody did     -> quiet -- silence_ns, or a peer speaks + ttl --> stale
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor, put_boolean, put_long, put_string
from schemas.instrument import Rules
from schemas.record import Gap

NEVER: Final = i64(2**62)  # no deadline. Not a literal: one so large would be boxed wherever it is used
REMEMBERED: Final = 16  # gaps, for the candles that they overlap

QUIET: Final = 0
LIVE: Final = 1
STALE: Final = 2
DISCONNECTED: Final = 3
CLOSED: Final = 4
NAMES: Final = ["quiet", "live", "stale", "disconnected", "closed"]


@mypyc_attr(acyclic=True)
class Liveness:
    """What is known of the life of one source of a symbol. Times in ns."""

    def __init__(self, symbol: str, source: str, rules: Rules) -> None:
        self.symbol = symbol
        self.source = source
        self.ttl_min: i64 = rules.ttl_ns
        self.ttl_max: i64 = rules.ttl_max_ns
        self.silence_ns: i64 = rules.silence_ns
        self.status: i64 = QUIET
        self.since: i64 = 0
        self.alive: i64 = 0  # the newest sign of life, by recv
        self.covered: i64 = 0  # the end of known coverage, by event
        self.ticked: i64 = 0  # recv of the newest accepted tick
        self.interval: i64 = 0  # smoothed, between accepted ticks
        self.heartbeats = False  # ever
        self.down = False  # the link is known to be down, whatever the session
        self.deadline: i64 = NEVER  # when silence is judged
        self.opened: i64 = 0  # how many gaps
        self.gap_cause = ""  # of the open gap; empty: none is open
        self.starts = vec[i64]()  # of the last gaps,
        self.ends = vec[i64]()  # and their ends; 0: open, which only the last one is

    def dump(self, out: BytesWriter) -> None:
        """Append the state."""
        put_long(out, self.status)
        put_long(out, self.since)
        put_long(out, self.alive)
        put_long(out, self.covered)
        put_long(out, self.ticked)
        put_long(out, self.interval)
        put_boolean(out, self.heartbeats)
        put_boolean(out, self.down)
        put_long(out, self.deadline)
        put_long(out, self.opened)
        put_string(out, self.gap_cause)
        put_long(out, len(self.starts))
        for start, end in gaps(self):
            put_long(out, start)
            put_long(out, end - start)

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        self.status = cursor.long()
        self.since = cursor.long()
        self.alive = cursor.long()
        self.covered = cursor.long()
        self.ticked = cursor.long()
        self.interval = cursor.long()
        self.heartbeats = cursor.boolean()
        self.down = cursor.boolean()
        self.deadline = cursor.long()
        self.opened = cursor.long()
        self.gap_cause = cursor.string()
        for _ in range(cursor.long()):
            start = cursor.long()
            _remember(self, start, cursor.long() + start)


def ttl(state: Liveness) -> i64:
    """How long silence is normal: eight times the source's own pace, within bounds."""
    pace: i64 = 8 * state.interval
    if pace < state.ttl_min:
        return state.ttl_min
    return min(pace, state.ttl_max)


def _enter(state: Liveness, status: i64, now: i64) -> None:
    if state.status != status:
        state.status = status
        state.since = now


def _wait(state: Liveness) -> None:
    state.deadline = state.alive + ttl(state) + 1


def sign_of_life(state: Liveness, now: i64, event: i64, recv: i64) -> bool:
    """A tick or link proves the source alive, unless it is old: that is history."""
    if event > state.covered:
        state.covered = event
    if now > recv + ttl(state):
        return False
    state.down = False
    if recv > state.alive:
        state.alive = recv
    if state.status != CLOSED:
        _enter(state, LIVE, now)
        _wait(state)
    return True


def pace(state: Liveness, recv: i64) -> None:
    """An accepted tick tells how often the source speaks."""
    gone: i64 = recv - state.ticked
    if state.ticked > 0 and gone > 0:
        if gone > state.ttl_max:
            gone = state.ttl_max
        state.interval = state.interval + (gone - state.interval) // 16 if state.interval else gone
    if recv > state.ticked:
        state.ticked = recv
    if state.status == LIVE:  # the ttl follows the pace
        _wait(state)


def disconnect(state: Liveness, now: i64) -> Gap | None:
    """The connector lost its link."""
    state.down = True
    if state.status == CLOSED:
        return None
    state.deadline = NEVER
    _enter(state, DISCONNECTED, now)
    return open_gap(state, state.covered, "disconnect")


def open_gap(state: Liveness, start: i64, cause: str) -> Gap | None:
    """Open a gap, unless one is open or the source has never been covered."""
    if state.gap_cause or state.covered == 0:
        return None
    state.gap_cause = cause
    state.opened += 1
    _remember(state, start, 0)
    return Gap(state.symbol, state.source, start, 0, cause, "open")


def close_gap(state: Liveness, end: i64) -> Gap | None:
    """Close the open gap, if any."""
    if not state.gap_cause:
        return None
    start: i64 = state.starts[-1]
    if end <= start:
        end = start + 1
    state.ends[-1] = end
    gap = Gap(state.symbol, state.source, start, end, state.gap_cause, "closed")
    state.gap_cause = ""
    return gap


def skip(state: Liveness, start: i64, end: i64) -> Gap | None:
    """A hole in the sequence numbers: a gap that is known only when it is over."""
    if end <= start or start == 0:
        return None
    state.opened += 1
    if state.gap_cause:  # the open one stays the last
        opened: i64 = state.starts[-1]
        state.starts[-1] = start
        state.ends[-1] = end
        _remember(state, opened, 0)
    else:
        _remember(state, start, end)
    return Gap(state.symbol, state.source, start, end, "sequence", "closed")


def _remember(state: Liveness, start: i64, end: i64) -> None:
    state.starts = append(state.starts, start)
    state.ends = append(state.ends, end)
    if len(state.starts) > REMEMBERED:
        state.starts = state.starts[1:]
        state.ends = state.ends[1:]


def gaps(state: Liveness) -> list[tuple[int, int]]:
    """The remembered gaps, as (start, end)."""
    return list(zip(state.starts, state.ends, strict=True))


def overlaps(state: Liveness, start: i64, end: i64) -> bool:
    """Whether a remembered gap touches [start, end)."""
    count: i64 = len(state.starts)
    i: i64 = 0
    while i < count:
        if state.starts[i] < end and (state.ends[i] == 0 or state.ends[i] > start):
            return True
        i += 1
    return False


def silence(state: Liveness, now: i64, newest_peer: i64) -> Gap | None:
    """Judge a silence whose deadline has come. ``newest_peer``: recv of the newest tick of any peer."""
    expected = state.heartbeats or newest_peer > state.alive + ttl(state) // 2
    if state.status == LIVE and not expected:
        _enter(state, QUIET, now)
        state.deadline = state.alive + state.silence_ns + 1
        return None
    state.deadline = NEVER
    _enter(state, STALE, now)
    return open_gap(state, state.covered, "stale")


def peer_spoke(state: Liveness, now: i64) -> None:
    """A peer ticks while this one is quiet: it has one ttl to follow."""
    soon: i64 = now + ttl(state) + 1
    if state.status == QUIET and soon < state.deadline:
        state.deadline = soon


def close_session(state: Liveness, now: i64) -> Gap | None:
    """The session closes: nothing is missing from here on."""
    _enter(state, CLOSED, now)
    state.deadline = NEVER
    return close_gap(state, now)


def open_session(state: Liveness, now: i64) -> Gap | None:
    """The session opens: the source has silence_ns to speak, unless its link is down."""
    if 0 < state.covered < now:
        state.covered = now  # nothing was missed while it was closed
    if state.down:
        _enter(state, DISCONNECTED, now)
        return open_gap(state, now, "disconnect")
    _enter(state, QUIET, now)
    state.alive = now
    state.deadline = now + state.silence_ns + 1
    return None
