"""What became of an import, counted from the tables or the topics of its run: every tick is accounted for.

The last clock of an import lies so far behind the last tick that the last status of a source counts all of its ticks.
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
from topology.storage import database

Pair = tuple[str, str]  # symbol, source


class Counts(msgspec.Struct, frozen=True):
    """What became of the ticks of one source."""

    arrived: int
    accepted: int
    gaps: int
    rejected: dict[str, int]  # by reason


class Account(msgspec.Struct):
    """What the topology says of one run."""

    sources: Mapping[Pair, Counts | Status]
    candles: Counter[Pair]  # minutes, of the source ``best`` too

    def missing(self, written: Mapping[Pair, int]) -> int:
        """How many of the written ticks are not accounted for; less than 0: too many are."""
        return sum(written.values()) - sum(status.arrived for status in self.sources.values())


def stored(dsn: str, run: str) -> Account:
    """Read it from the tables, once the sink has stored everything. Raises ConfigError, DatabaseAway."""
    statuses = "SELECT symbol, source, arrived, accepted, gaps, rejected FROM source_status WHERE run = %s"
    candles = "SELECT symbol, source, count(*) FROM candles WHERE run = %s AND revision >= 0 GROUP BY symbol, source"
    with database.connect(dsn) as connection:
        return Account(
            {(symbol, source): Counts(*counts) for symbol, source, *counts in connection.execute(statuses, [run])},
            Counter({(symbol, source): count for symbol, source, count in connection.execute(candles, [run])}),
        )


def account(cluster: Cluster, run: str, codec: Codec) -> Account:
    """Read it from the topics: the newest record of every key. Raises KafkaException, DecodeError."""
    with LogReader(cluster) as log:
        statuses = [codec.decode(value) for value in _newest(log, topics.named(topics.STATUS.name, run))]
        candles = [codec.decode(value) for value in _newest(log, topics.named(topics.CANDLE.name, run))]
    return Account(
        {(each.symbol, each.source): each for each in statuses if isinstance(each, Status)},
        Counter((each.symbol, each.source) for each in candles if isinstance(each, Candle) and each.revision >= 0),
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
        source = found.sources.get(pair)
        counts = {"candles": found.candles[pair]}
        if source:
            refused = sum(source.rejected.values())
            counts |= {"arrived": source.arrived, "accepted": source.accepted, "refused": refused, "gaps": source.gaps}
        total.update(counts)
        result.add_row(*pair, *_row(counts), _reasons(source.rejected) if source else "")
    result.add_section()
    result.add_row("", "all", *_row(total), f"and {bad_rows:,} bad rows" if bad_rows else "")
    return result


def _row(counts: Mapping[str, int]) -> list[str]:
    names = ("arrived", "accepted", "refused", "gaps", "candles")
    return [f"{counts[name]:,}" if name in counts else "" for name in names]


def _reasons(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(rejected.items(), key=lambda each: -each[1]))
