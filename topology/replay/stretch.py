"""From what a user asks for, times or offsets, to the offsets of each partition that are copied and compared."""

from datetime import datetime
from typing import Final

from connectors.runtime.log import LogReader
from schemas.instrument import ConfigError
from topology.replay.ledger import Stretch

#: A time at which the record was appended, or an offset in every partition; None: as far as there is.
Place = datetime | int | None

MS: Final = 1000


def stretches(log: LogReader, topic: str, since: Place, until: Place, warm_up_s: float) -> list[Stretch]:
    """Where each partition is copied from, compared from, and where it ends. Raises ConfigError, KafkaException.

    What the stages knew before ``since`` is not known any more, so they are fed some time before. Where the log itself
    begins later than that (and not at its very first record) the comparison begins so much later.
    """
    bounds = log.bounds(topic)
    if not bounds:
        raise ConfigError(f"{topic} does not exist: there is nothing to replay")
    firsts = {number: first for number, (first, _) in bounds.items()}
    starts = _offsets(log, topic, since, bounds, firsts)
    ends = _offsets(log, topic, until, bounds, {number: end for number, (_, end) in bounds.items()})
    if not any(starts[number] < end for number, end in ends.items()):
        held = ", ".join(f"{number}: {first} to {end}" for number, (first, end) in bounds.items() if end > first)
        raise ConfigError(
            f"{topic} has no records there; it holds the offsets {held or 'of none'} (times are those at which Kafka "
            "got a record, of an import too)"
        )
    warm = round(warm_up_s * MS)
    before = log.offsets_at(topic, {n: at - warm for n, at in _times(log, topic, starts, ends).items()})
    copied = {number: max(firsts[number], min(before.get(number, start), start)) for number, start in starts.items()}
    cut = {number: first for number, first in firsts.items() if 0 < first == copied[number]}
    warmed = log.offsets_at(topic, {n: at + warm for n, at in _times(log, topic, cut, ends).items()})
    return [
        Stretch(n, min(copied[n], ends[n]), min(max(start, warmed.get(n, 0)), ends[n]), ends[n])
        for n, start in sorted(starts.items())
    ]


def _offsets(
    log: LogReader, topic: str, place: Place, bounds: dict[int, tuple[int, int]], otherwise: dict[int, int]
) -> dict[int, int]:
    if place is None:
        return otherwise
    if isinstance(place, datetime):
        found = log.offsets_at(topic, dict.fromkeys(bounds, round(place.timestamp() * MS)))
    else:
        found = dict.fromkeys(bounds, place)
    return {number: min(max(found[number], first), end) for number, (first, end) in bounds.items()}


def _times(log: LogReader, topic: str, at: dict[int, int], ends: dict[int, int]) -> dict[int, int]:
    """When the record at each place was appended, in ms."""
    one = {number: offset + 1 for number, offset in at.items() if offset < ends[number]}
    return {message.partition() or 0: message.timestamp()[1] for message in log.read(topic, at, one)}
