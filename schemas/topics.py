"""The topics, as data: name, key, cleanup policy. A run puts its name before every topic (``named``)."""

from typing import Final, NamedTuple

from schemas.record import Best, Candle, Gap, Quote, Record, Rejected, Status, Trade


class Topic(NamedTuple):
    """One row of the topic table."""

    name: str
    key: str
    cleanup: str  # Kafka's cleanup.policy
    doc: str


RAW: Final = Topic("market.raw", "symbol", "delete", "everything that enters, in one order")
TICK: Final = Topic("market.data.tick", "symbol", "delete", "every accepted tick, once, in order per source")
REJECTED: Final = Topic("market.data.tick.rejected", "symbol", "delete", "refused ticks and why")
BEST: Final = Topic("market.data.best", "symbol", "compact", "best bid and ask across sources, consensus")
CANDLE: Final = Topic("market.data.candle.1m", "symbol|source|start", "compact", "minute candles")
GAP: Final = Topic("market.data.gap", "symbol|source|start", "compact", "the coverage ledger")
STATUS: Final = Topic("market.source.status", "symbol|source", "compact", "liveness and quality of sources")
DEAD_LETTER: Final = Topic("market.dead_letter", "as it came", "delete", "what could not be decoded or applied")

TOPICS: Final = (RAW, TICK, REJECTED, BEST, CANDLE, GAP, STATUS, DEAD_LETTER)
OUTPUT_OF: Final[dict[type, Topic]] = {
    Quote: TICK,
    Trade: TICK,
    Rejected: REJECTED,
    Best: BEST,
    Candle: CANDLE,
    Gap: GAP,
    Status: STATUS,
}

PARTITIONS: Final = 8  # of every topic, unless the cluster's topics were made with another count
CLOCK_KEY: Final = b"#clock"  # clock records go to a partition by number; their key is only a label
OFFSET_HEADER: Final = "offset"  # where an output came from: the offset in market.raw, decimal text


def named(name: str, run_name: str) -> str:
    """Put a name (of a topic, group, application) into a run."""
    return f"{run_name}.{name}" if run_name else name


def key(record: Record) -> bytes:
    """The Kafka key of an output record."""
    if isinstance(record, (Candle, Gap)):  # not a union: compiled, it would be made anew each time
        return f"{record.symbol}|{record.source}|{record.start}".encode()
    if isinstance(record, Status):
        return f"{record.symbol}|{record.source}".encode()
    if isinstance(record, Rejected):
        return record.tick.symbol.encode()
    if isinstance(record, (Quote, Trade, Best)):
        return record.symbol.encode()
    raise TypeError(f"{type(record).__name__} is not an output")
