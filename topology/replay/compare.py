"""What a replay made, laid beside what the base made of the same records of market.raw.

    tick, rejected   by the record that they came from: same bytes, and the ticks of a symbol in the same order
    candle, gap      by key: the last value within the range
    best             by symbol and record; the base's topic is compacted, so where it no longer knows whether there was
                     a price, nothing is said of the replay's

Not compared is what the range does not decide: ticks that one of the two still held at its end, minutes that were
provisional and gaps that were open there, and keys of which the base has only a value from after it. Rule: nothing is
left out uncounted.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from connectors.runtime.cluster import Cluster
from connectors.runtime.log import LogReader
from schemas import flags
from schemas.codec import Codec
from schemas.record import Candle, Gap, replace
from schemas.topics import BEST, CANDLE, GAP, REJECTED, TICK, Topic
from topology import admin
from topology.replay.ledger import Replay, Stretch
from topology.replay.outputs import Made, Outputs, symbol_of

COMPARED: Final = (TICK, REJECTED, BEST, CANDLE, GAP)
TAIL: Final = 1000  # records at the end of a partition among which its newest time is looked for

#: What differs, in words.
CHANGED: Final = "changed"
ONLY_BASE: Final = "only live"
ONLY_REPLAY: Final = "only replay"
REFUSED: Final = "newly refused"
ACCEPTED: Final = "newly accepted"
ORDER: Final = "other order"


class NotComparable(OSError):
    """The two can't be compared now; the text is one line that says why and what to do."""


class Difference(msgspec.Struct, frozen=True):
    """One thing that differs. ``base`` and ``copy`` are what the two runs have; None: nothing."""

    what: str
    topic: Topic
    symbol: str
    partition: int  # of the base's topics
    offset: int  # the later of the two, in market.raw of the base
    base: Made | None
    copy: Made | None
    is_later: bool = False  # the base has a value of the key from after the range


class Tally(msgspec.Struct):
    """What was found of one symbol in one topic."""

    base: int = 0
    copy: int = 0
    equal: int = 0
    undecided: int = 0  # not compared
    differences: Counter[str] = msgspec.field(default_factory=Counter)


Found = dict[tuple[str, str], Tally]  # by symbol and topic
Told = Callable[[Difference], None]


class Comparison:
    """Compares all of a replay; ``tell`` gets every difference."""

    def __init__(self, cluster: Cluster, replay: Replay, codec: Codec, hold_ns: int) -> None:
        """``hold_ns``: how long a tick may be held, by the rules of either run."""
        self.found: Found = {}
        self._cluster = cluster
        self._replay = replay
        self._codec = codec
        self._hold_ns = hold_ns

    def run(self, tell: Told, topics: Iterable[Topic] = COMPARED) -> None:
        """Compare partition by partition. Raises NotComparable, KafkaException, DecodeError."""
        check(self._cluster, self._replay)
        wanted = set(topics)
        for stretch in self._replay.stretches:
            if stretch.start < stretch.end:
                part = _Part(self, Outputs(self._cluster, self._replay, stretch), tell, wanted)
                if wanted & {TICK, REJECTED}:
                    part.ticks()
                for topic in (CANDLE, GAP):
                    if topic in wanted:
                        part.keys(topic)
                if BEST in wanted:
                    part.best()
        names = {topic.name for topic in wanted}
        self.found = {place: tally for place, tally in self.found.items() if place[1] in names}

    def tally(self, symbol: str, topic: Topic) -> Tally:
        """The counts of a symbol in a topic."""
        return self.found.setdefault((symbol, topic.name), Tally())

    def is_same(self, base: bytes, copy: bytes) -> bool:
        """Whether two values say the same: in another version of the schema too, and however often promoted."""
        if base == copy:
            return True
        ours, theirs = self._codec.decode(base), self._codec.decode(copy)
        if isinstance(ours, Candle) and isinstance(theirs, Candle) and ours.flags & flags.PROMOTED:
            mark = ours.flags & ~flags.PROMOTED
            ours = replace(ours, revision=theirs.revision, flags=mark)
        return bool(ours == theirs)

    def settled(self, stretch: Stretch) -> int:
        """Every tick received before this time (ns) is accepted or refused at the end of the stretch."""
        newest = 0
        since = max(stretch.start, stretch.end - TAIL)
        with LogReader(self._cluster) as log:
            for message in log.read(
                self._replay.base_raw, {stretch.partition: since}, {stretch.partition: stretch.end}
            ):
                record = self.decoded(message.value())
                newest = max(newest, min(getattr(record, "ts_recv", 0), message.timestamp()[1] * 1_000_000))
        return newest - self._hold_ns

    def decoded(self, value: bytes | None) -> Any:
        """The record; None where the bytes are none."""
        try:
            return self._codec.decode(value or b"")
        except ValueError:  # it became a dead letter
            return None

    def is_open(self, made: Made, settled: int) -> bool:
        """Whether the other run may still hold this tick."""
        record = self.decoded(made.value)
        tick = getattr(record, "tick", record)
        return int(getattr(tick, "ts_recv", 0)) >= settled


class _Part:
    """The comparison of one partition."""

    def __init__(self, whole: Comparison, outputs: Outputs, tell: Told, wanted: set[Topic]) -> None:
        self._whole = whole
        self._outputs = outputs
        self._tell = tell
        self._wanted = wanted

    def ticks(self) -> None:
        """What became of every tick: accepted, refused, or held."""
        outputs, stretch = self._outputs, self._outputs.stretch
        once = _Once(stretch)
        orders: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
        accepted = self._matched(TICK, once.of(1, outputs.base(TICK)), once.of(2, outputs.copy(TICK)), orders)
        refused = self._matched(REJECTED, once.of(4, self._refusals()), once.of(8, outputs.copy(REJECTED)))
        settled = self._whole.settled(stretch)
        for topic, left, other in ((TICK, accepted, refused), (REJECTED, refused, accepted)):
            for offset, (base, copy) in sorted(left.items()):
                self._one_sided(topic, offset, base, copy, other.get(offset), settled)
        for key in orders[0]:
            tally = self._whole.tally(symbol_of(key), TICK)
            if orders[0][key] != orders[1].get(key) and tally.equal == tally.base == tally.copy:
                self._differs(ORDER, TICK, symbol_of(key), stretch.end, None, None)

    def _one_sided(
        self,
        topic: Topic,
        offset: int,
        base: Made | None,
        copy: Made | None,
        other: "tuple[Made | None, Made | None] | None",
        settled: int,
    ) -> None:
        made = base or copy
        assert made is not None
        symbol = symbol_of(made.key)
        if base and copy:
            self._differs(CHANGED, topic, symbol, offset, base, copy)
        elif base and other and other[1]:
            self._differs(REFUSED if topic is TICK else ACCEPTED, topic, symbol, offset, base, None)
        elif copy and other and other[0]:
            self._differs(ACCEPTED if topic is TICK else REFUSED, topic, symbol, offset, None, copy)
        elif self._whole.is_open(made, settled):
            self._whole.tally(symbol, topic).undecided += 1
        else:
            self._differs(ONLY_BASE if base else ONLY_REPLAY, topic, symbol, offset, base, copy)

    def _refusals(self) -> Iterator[Made]:
        """What the base refused; what a promotion has said of a tick since stands in place of that."""
        promoted = {made.offset: made for made in self._outputs.base(REJECTED) if made.promoted}
        for made in self._outputs.base(REJECTED):
            if not made.promoted and made.offset not in promoted:
                yield made
        for made in promoted.values():
            if made.value is not None:
                yield made

    def _matched(
        self,
        topic: Topic,
        base: Iterator[Made],
        copy: Iterator[Made],
        orders: tuple[dict[bytes, int], dict[bytes, int]] | None = None,
    ) -> dict[Any, tuple[Made | None, Made | None]]:
        """Pair what came of the same record; give what differs or has no partner.

        Both come nearly in the order of market.raw; the one that lags is read on, so that little waits. ``orders``
        get a digest by key of the order in which they came.
        """
        sides = [base, copy]
        reached = [-1, -1]
        waiting: list[dict[int, Made]] = [{}, {}]
        left: dict[int, tuple[Made | None, Made | None]] = {}
        tallies: dict[bytes, Tally] = {}
        first_kept = self._outputs.first_kept(topic)
        ended = [False, False]
        while not all(ended):
            side = 0 if not ended[0] and (ended[1] or reached[0] <= reached[1]) else 1
            made = next(sides[side], None)
            if made is None:
                ended[side] = True
                continue
            offset = made.offset
            reached[side] = max(reached[side], offset)
            if offset < first_kept:
                continue
            tally = tallies.get(made.key)
            if tally is None:
                tally = tallies[made.key] = self._whole.tally(symbol_of(made.key), topic)
            if side:
                tally.copy += 1
            else:
                tally.base += 1
            if orders:
                orders[side][made.key] = hash((orders[side].get(made.key, 0), offset))
            partner = waiting[1 - side].pop(offset, None)
            if partner is None:
                waiting[side][offset] = made
                continue
            pair = (partner, made) if side else (made, partner)
            if self._whole.is_same(pair[0].value or b"", pair[1].value or b""):
                tally.equal += 1
            else:
                left[offset] = pair
        left.update({offset: (made, None) for offset, made in waiting[0].items()})
        left.update({offset: (None, made) for offset, made in waiting[1].items()})
        return left

    def keys(self, topic: Topic) -> None:
        """The last value of every key."""
        end = self._outputs.stretch.end
        base: dict[bytes, Made] = {}
        later: set[bytes] = set()
        for made in self._outputs.base(topic, everything=True):
            if made.offset < end:
                base[made.key] = made
            else:
                later.add(made.key)
        copy = {made.key: made for made in self._outputs.copy(topic)}
        for key in sorted(base.keys() | copy.keys()):
            self._key(topic, key, base.get(key), copy.get(key), key in later)

    def _key(self, topic: Topic, key: bytes, base: Made | None, copy: Made | None, is_later: bool) -> None:
        symbol = symbol_of(key)
        tally = self._whole.tally(symbol, topic)
        held = base if base is not None and base.value is not None else None
        tally.base += held is not None
        tally.copy += copy is not None
        offset = max(made.offset for made in (base, copy) if made is not None)
        if held and copy and self._whole.is_same(held.value or b"", copy.value or b""):
            tally.equal += 1
        elif (copy and base is None and is_later) or self._is_provisional(held) or self._is_provisional(copy):
            tally.undecided += 1
        elif held or copy:
            what = CHANGED if held and copy else ONLY_BASE if held else ONLY_REPLAY
            self._differs(what, topic, symbol, offset, held, copy, is_later)

    def _is_provisional(self, made: Made | None) -> bool:
        record = self._whole.decoded(made.value) if made else None
        if isinstance(record, Gap):
            return record.status == "open"  # what ends it may come after the range, which the replay doesn't see
        return isinstance(record, Candle) and record.revision < 0

    def best(self) -> None:
        """The best prices, as far as the base still has them."""
        end = self._outputs.stretch.end
        known = _Known()
        last: dict[bytes, int] = {}
        base: dict[tuple[int, bytes], Made] = {}
        for made in self._outputs.base(BEST, everything=True, watch=known.add):
            last[made.key] = made.offset
            if made.offset < end:
                base[made.offset, made.key] = made
        for _, key in base:
            self._whole.tally(symbol_of(key), BEST).base += 1
        for made in _last_of_equals(self._outputs.copy(BEST)):
            symbol = symbol_of(made.key)
            tally = self._whole.tally(symbol, BEST)
            tally.copy += 1
            former = base.pop((made.offset, made.key), None)
            if former is not None:
                if self._whole.is_same(former.value or b"", made.value or b""):
                    tally.equal += 1
                else:
                    self._differs(CHANGED, BEST, symbol, made.offset, former, made)
            elif made.offset > last.get(made.key, -1) or known.covers(made.offset):
                self._differs(ONLY_REPLAY, BEST, symbol, made.offset, None, made)
            else:
                tally.undecided += 1
        for (offset, key), made in base.items():
            self._differs(ONLY_BASE, BEST, symbol_of(key), offset, made, None)

    def _differs(
        self,
        what: str,
        topic: Topic,
        symbol: str,
        offset: int,
        base: Made | None,
        copy: Made | None,
        is_later: bool = False,
    ) -> None:
        if topic in self._wanted:
            partition = self._outputs.stretch.partition
            self._whole.tally(symbol, topic).differences[what] += 1
            self._tell(Difference(what, topic, symbol, partition, offset, base, copy, is_later))


class _Once:
    """Each output once: after a crash an at-least-once worker repeats some, the same bytes from the same record."""

    def __init__(self, stretch: Stretch) -> None:
        self._start = stretch.start
        self._seen = bytearray(stretch.end - stretch.start)

    def of(self, bit: int, outputs: Iterable[Made]) -> Iterator[Made]:
        """Those that come for the first time; ``bit`` tells the topics and runs apart."""
        seen, start = self._seen, self._start
        for made in outputs:
            at = made.offset - start
            if not seen[at] & bit:
                seen[at] |= bit
                yield made


class _Known:
    """Between which records of market.raw a compacted partition has certainly lost nothing.

    Of two records at neighbouring offsets nothing has been removed between. (A hole may also be the marker of a
    transaction: then nothing is known of the moment between.)
    """

    def __init__(self) -> None:
        self._since: list[int] = []
        self._until: list[int] = []
        self._place = -3  # of nothing yet

    def add(self, place: int, origin: int) -> None:
        """The next record of the partition."""
        if place == self._place + 1:
            self._until[-1] = max(origin, self._until[-1])
        else:
            self._since.append(origin)
            self._until.append(origin)
        self._place = place

    def covers(self, origin: int) -> bool:
        """Whether nothing that was made by this record can have been removed."""
        at = bisect_right(self._since, origin) - 1
        return at >= 0 and self._since[at] < origin < self._until[at]


def _last_of_equals(outputs: Iterable[Made]) -> Iterator[Made]:
    """Of several with one symbol and origin the last: that is what counts. Repeats after a crash are left out."""
    held: dict[int, dict[bytes, Made]] = {}  # by partition, of its newest origin
    reached: dict[int, int] = {}
    for made in outputs:
        before = reached.get(made.partition, -1)
        if made.offset < before:
            continue
        if made.offset > before:
            yield from held.get(made.partition, {}).values()
            held[made.partition] = {}
            reached[made.partition] = made.offset
        held[made.partition][made.key] = made
    for each in held.values():
        yield from each.values()


def check(cluster: Cluster, replay: Replay) -> None:
    """Both runs must be through with the range. Raises NotComparable, BrokerError."""
    if not replay.finished:
        raise NotComparable(f"{replay.run} is not finished: the command that began it goes on where it stopped")
    client = admin.connect(cluster)
    places = [(replay.base_raw, stretch.partition) for stretch in replay.stretches]
    done = admin.committed(client, admin.app_id(replay.base), places)
    for stretch in replay.stretches:
        reached = done.get((replay.base_raw, stretch.partition), stretch.end)  # a group that is gone says nothing
        if reached < stretch.end and stretch.start < stretch.end:
            raise NotComparable(
                f"{admin.app_id(replay.base)} has only come to offset {reached:,} of partition {stretch.partition}, "
                f"and the replay goes to {stretch.end:,}: let a worker catch up first"
            )
