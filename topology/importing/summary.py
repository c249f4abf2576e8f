"""What became of an import, counted from the topics of its run: every tick is accounted for.

Reads the newest record of every key of market.source.status and market.data.candle.1m. The last clock of an
import lies so far behind the last tick that the last status of a source counts all of its ticks.
"""

from collections import Counter
from collections.abc import Mapping

import msgspec
from confluent_kafka import Message
from rich.table import Table

from connectors.runtime.cluster import Cluster
from connectors.runtime.log import LogReader
from schemas import topics
from schemas.codec import Codec
from schemas.record import Candle, Status

Pair = tuple[str, str]  # symbol, source


class Account(msgspec.Struct):
    """What the topology says of one run."""

    sources: dict[Pair, Status]
    candles: Counter[Pair]  # minutes, of the source ``best`` too
    revised: int = 0  # minutes that a late tick corrected

    def missing(self, written: Mapping[Pair, int]) -> int:
        """How many of the written ticks are not accounted for; less than 0: too many are."""
        return sum(written.values()) - sum(status.arrived for status in self.sources.values())


def account(cluster: Cluster, run: str, codec: Codec) -> Account:
    """Read it from the topics. Raises KafkaException, DecodeError."""
    with LogReader(cluster) as log:
        statuses = [codec.decode(value) for value in _newest(log, topics.named(topics.STATUS.name, run))]
        candles = [codec.decode(value) for value in _newest(log, topics.named(topics.CANDLE.name, run))]
    return Account(
        {(each.symbol, each.source): each for each in statuses if isinstance(each, Status)},
        Counter((each.symbol, each.source) for each in candles if isinstance(each, Candle) and each.revision >= 0),
        sum(isinstance(each, Candle) and each.revision > 0 for each in candles),
    )


def _newest(log: LogReader, topic: str) -> list[bytes]:
    newest: dict[bytes, Message] = {message.key() or b"": message for message in log.whole(topic)}
    return [value for message in newest.values() if (value := message.value()) is not None]


def table(found: Account, bad_rows: int) -> Table:
    """Show it: a line for each source, one for the best price of each symbol, and a sum."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("symbol", "source"):
        result.add_column(name)
    for name in ("ticks in", "accepted", "refused", "gaps", "candles"):
        result.add_column(name, justify="right")
    result.add_column("refused because")
    total: Counter[str] = Counter()
    for pair in sorted(found.sources.keys() | found.candles.keys()):
        status = found.sources.get(pair)
        counts = {"candles": found.candles[pair]}
        if status:
            refused = sum(status.rejected.values())
            counts |= {"arrived": status.arrived, "accepted": status.accepted, "refused": refused, "gaps": status.gaps}
        total.update(counts)
        result.add_row(*pair, *_row(counts), _reasons(status.rejected) if status else "")
    result.add_section()
    result.add_row("", "all", *_row(total), f"and {bad_rows:,} bad rows" if bad_rows else "")
    return result


def _row(counts: Mapping[str, int]) -> list[str]:
    names = ("arrived", "accepted", "refused", "gaps", "candles")
    return [f"{counts[name]:,}" if name in counts else "" for name in names]


def _reasons(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(rejected.items(), key=lambda each: -each[1]))
