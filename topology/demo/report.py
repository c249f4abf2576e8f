"""The end of the demo: what the pipeline reported and stored, held against what the feed injected.

Each row of the comparison is equal only if it is for every source of every symbol, or for every gap and
every candle, one by one; the totals shown are for the reader.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from connectors.simulated import Label
from schemas import flags
from schemas.record import Candle, Gap, asdict
from topology.demo.expected import REFUSED, Expected
from topology.demo.seen import Seen

#: Fields of a candle that say how it came about, not what it holds.
ASIDE = ("flags", "revision")
FIELDS_SHOWN = 3


class Stored(msgspec.Struct):
    """What the database holds of the run."""

    ticks: dict[tuple[str, str], int] = {}  # rows by (symbol, source)
    candles: dict[tuple[str, str, int], Candle] = {}
    gaps: dict[tuple[str, str, int], Gap] = {}


class Row(msgspec.Struct, frozen=True):
    """One line of the comparison."""

    injected: str
    outcome: str
    expected: int
    reported: int
    differences: list[str] = []

    @property
    def ok(self) -> bool:
        """Nothing differs."""
        return not self.differences


CAUSES = {
    "silent, but connected": "stale",
    "disconnected": "disconnect",
    "left out in sequence": "sequence",
}


def progress(expected: Expected, seen: Seen) -> list[Row]:
    """What the feed has injected and the pipeline reported so far; of gaps only the numbers are compared."""
    sent = Counter(gap.cause for gap in expected.gaps())
    found = Counter(gap.cause for gap in seen.gaps.values())
    gaps = [Row(what, f"a gap, cause {cause}", sent[cause], found[cause]) for what, cause in CAUSES.items()]
    return [*_ticks(expected, seen), *gaps]


def compare(expected: Expected, seen: Seen, stored: Stored) -> list[Row]:
    """Hold everything reported and stored against what must have come of the events sent."""
    gaps = _ledger(expected)
    return [
        *_ticks(expected, seen),
        *(
            _things(what, f"a gap, cause {cause}", _caused(gaps, cause), _caused(seen.gaps, cause))
            for what, cause in CAUSES.items()
        ),
        _counts("records nobody can read", "dead letters", {}, {("any", "any"): seen.dead_letters}),
        _counts("accepted ticks", "stored", _accepted(expected), stored.ticks),
        _things("gaps", "stored", gaps, stored.gaps),
        _things("candles of brokers", "stored", expected.candles(), _candles(stored, best=False)),
        _things("candles of best price", "stored", seen.best_candles(), _candles(stored, best=True)),
    ]


def _ledger(expected: Expected) -> dict[tuple[str, str, int], Gap]:
    return {(gap.symbol, gap.source, gap.start): gap for gap in expected.gaps()}


def _ticks(expected: Expected, seen: Seen) -> list[Row]:
    def sent(*labels: Label) -> Counter[tuple[str, str]]:
        return _by_source(expected.ticks, labels)

    def refused(*reasons: str) -> Counter[tuple[str, str]]:
        return _by_source(seen.refused, reasons)

    def flagged(bit: int) -> Counter[tuple[str, str]]:
        return _by_source(seen.flagged, (flags.NAMES[bit],))

    others = {reason for reason, _, _ in seen.refused} - set(REFUSED.values())
    held = refused(flags.SPIKE, flags.SPIKE_TIMEOUT) + flagged(flags.RELEASED)
    return [
        _counts("ticks", "accepted or refused", sent(*Label), seen.accepted + refused(*flags.REASONS)),
        _counts("exact duplicates", "refused DUPLICATE", sent(Label.DUPLICATE), refused(flags.DUPLICATE)),
        _counts("snapshot repeats", "refused OLD_SNAPSHOT", sent(Label.SNAPSHOT), refused(flags.OLD_SNAPSHOT)),
        _counts("late by over 15 min", "refused LATE", sent(Label.LATE), refused(flags.LATE)),
        _counts("spikes, first of jumps", "held as suspects", sent(Label.SPIKE, Label.JUMP), held),
        _counts("single-tick spikes", "refused SPIKE", sent(Label.SPIKE), refused(flags.SPIKE)),
        _counts("jumps of all brokers", "confirmed, RELEASED", sent(Label.JUMP), flagged(flags.RELEASED)),
        _counts("a clock 1 h ahead", "flagged BAD_CLOCK", sent(Label.WRONG_CLOCK), flagged(flags.BAD_CLOCK)),
        _counts("crossed quotes", "flagged CROSSED", sent(Label.CROSSED), flagged(flags.CROSSED)),
        _counts("out of order", "put in order", sent(Label.OUT_OF_ORDER), seen.reordered),
        _counts("nothing else", "refused otherwise", {}, refused(*others)),
    ]


def _by_source(counts: Mapping[tuple[Any, str, str], int], wanted: tuple[Any, ...]) -> Counter[tuple[str, str]]:
    result: Counter[tuple[str, str]] = Counter()
    for (what, symbol, source), count in counts.items():
        if what in wanted:
            result[symbol, source] += count
    return result


def _accepted(expected: Expected) -> Counter[tuple[str, str]]:
    return _by_source(expected.ticks, tuple(label for label in Label if label not in REFUSED))


def _caused(gaps: Mapping[tuple[str, str, int], Gap], cause: str) -> dict[tuple[str, str, int], Gap]:
    return {key: gap for key, gap in gaps.items() if gap.cause == cause}


def _candles(stored: Stored, *, best: bool) -> dict[tuple[str, str, int], Candle]:
    return {key: candle for key, candle in stored.candles.items() if (key[1] == "best") is best}


def _counts(
    injected: str,
    outcome: str,
    expected: Mapping[tuple[str, str], int],
    reported: Mapping[tuple[str, str], int],
) -> Row:
    differences = [
        f"{' '.join(key)}: {expected.get(key, 0)} expected, {reported.get(key, 0)} reported"
        for key in sorted({*expected, *reported})
        if expected.get(key, 0) != reported.get(key, 0)
    ]
    return Row(injected, outcome, sum(expected.values()), sum(reported.values()), differences)


def _things(injected: str, outcome: str, expected: Mapping[Any, Any], reported: Mapping[Any, Any]) -> Row:
    """Compare records one by one."""
    differences = []
    for key in sorted({*expected, *reported}):
        unlike = _unlike(expected.get(key), reported.get(key))
        if unlike:
            symbol, source, start_ns = key
            at = datetime.fromtimestamp(start_ns / 1e9, UTC)
            differences.append(f"{symbol} {source} {at:%H:%M:%S}: {unlike}")
    return Row(injected, outcome, len(expected), len(reported), differences)


def _unlike(expected: Any, reported: Any) -> str:
    if expected is None or reported is None:
        return "not expected" if expected is None else "missing"
    if isinstance(expected, Candle) and expected.revision == 0 and reported.revision < 0:
        return "not final"
    there = asdict(reported)
    pairs = [(name, value, there[name]) for name, value in asdict(expected).items() if name not in ASIDE]
    unlike = [f"{name} {found} and not {wanted}" for name, wanted, found in pairs if wanted != found]
    return ", ".join(unlike[:FIELDS_SHOWN]) + (", …" if len(unlike) > FIELDS_SHOWN else "")
