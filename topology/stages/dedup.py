"""Drop what a source sends twice.

The same id is the same tick; without an id, the same time, prices and sizes are. The same price at a
newer time is news, not a duplicate. Ids repeat and go backwards in practice (polygon-io/issues #56, #241),
so sequence numbers are only used to see holes, against the highest seen.
"""

from typing import Any, Final

from mypy_extensions import i64

WINDOW: Final = 32  # a reconnect replays a handful; a day-old repeat is LATE anyway


class Dedup:
    """What is remembered of one source: its last identities, newest event time and highest sequence."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.at: i64 = 0  # where the next identity goes once the window is full
        self.newest: i64 = 0  # ns
        self.highest: i64 = 0

    def dump(self) -> list[Any]:
        """State as plain data, oldest identity first."""
        return [self.seen[self.at :] + self.seen[: self.at], self.newest, self.highest]

    def load(self, data: list[Any]) -> None:
        """Take over what dump() gave."""
        self.seen = [tuple(each) if isinstance(each, list) else each for each in data[0]]
        self.newest = data[1]
        self.highest = data[2]


def repeats(state: Dedup, event: i64, identity: object) -> bool:
    """Whether this identity is among the last ones; if not it is remembered. ``event`` in ns."""
    if (event <= state.newest or isinstance(identity, str)) and identity in state.seen:
        return True
    if len(state.seen) < WINDOW:
        state.seen.append(identity)
    else:
        state.seen[state.at] = identity
        state.at = (state.at + 1) % WINDOW
    return False


def hole(state: Dedup, seq: i64) -> bool:
    """Whether sequence numbers were skipped before this one (0: the tick has none)."""
    if seq <= 0:
        return False
    skipped = 0 < state.highest < seq - 1
    if seq > state.highest:
        state.highest = seq
    return skipped
