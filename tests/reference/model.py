"""What the oracle remembers of a symbol and its sources: plain values, whole histories, no cleverness."""

from dataclasses import dataclass, field
from typing import Any

from schemas.instrument import Instrument
from schemas.record import Record, Tick
from schemas.topics import Topic

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


@dataclass(frozen=True)
class Entry:
    """One record of a partition of ``market.raw``; ``append``: when Kafka appended it, ns."""

    offset: int
    append: int
    record: Record


@dataclass(frozen=True)
class Output:
    """One record that comes out, and the offset that it comes from."""

    topic: Topic
    record: Any
    offset: int


@dataclass(frozen=True)
class Arrived:
    """A tick with its times clamped, and where it stands in the log."""

    tick: Tick
    offset: int


@dataclass(frozen=True)
class Held:
    """A suspect, with the numbers that made it one."""

    arrived: Arrived
    x: int
    median: int
    band: int


@dataclass
class Source:
    """One source of one symbol."""

    name: str
    calendar: str
    priority: int
    weight: int
    contiguous: bool
    first_recv: int
    # dedup
    remembered: list[Any] = field(default_factory=list)
    newest: int = 0
    highest: int = 0
    # validity and spike
    good: int = 0
    window: list[int] = field(default_factory=list)
    spreads: list[int] = field(default_factory=list)
    spike_recv: int | None = None
    session_closed: bool = False
    held: list[Held] = field(default_factory=list)
    carried: int = 0  # how many agreed already when the first of ``held`` came
    level: int | None = None  # remembered after a timeout, and
    agreed: int = 0  # how many were held there
    # liveness
    status: str = ""
    since: int = 0
    is_open: bool = False
    next_change: int | None = None
    alive: int | None = None
    covered: int | None = None
    down: bool = False
    has_heartbeat: bool = False
    peer_spoke: int | None = None
    accepted_recv: int | None = None
    interval: int = 0
    latency: int | None = None
    spread: int = 0
    gaps: list[list[Any]] = field(default_factory=list)  # [start, end or 0 while open, cause]
    gaps_opened: int = 0
    # best price
    current: Any = None  # a quote
    suspect: bool = False
    new_quote: bool = False
    excluded: bool = False
    good_count: int = 0
    # status
    newest_event: int = 0
    last_recv: int = 0
    arrived: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    report_at: int | None = None
    status_due: bool = False

    def open_gap(self) -> list[Any] | None:
        """The gap that has no end yet."""
        return next((gap for gap in self.gaps if gap[1] == 0), None)


@dataclass
class Minute:
    """One minute of one candle source: everything that was fed."""

    start: int
    quotes: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    trades: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    revision: int = -1  # of the last final row; -1: not final yet
    changed: bool = False  # since its last provisional row
    replaced: Any = None  # the candle that backfill put here
    partial: bool = False  # settled when it becomes final


@dataclass
class Series:
    """The candles of one source, or of ``best``."""

    name: str
    minutes: dict[int, Minute] = field(default_factory=dict)
    watermark: int = 0
    provisional_at: int | None = None
    dropped: int = 0


@dataclass
class Symbol:
    """Everything about one symbol."""

    instrument: Instrument
    now: int
    sources: dict[str, Source] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    best: Any = None
    eligible: list[frozenset[str]] = field(default_factory=list)  # for each best record, who could take part
    out: list[Output] = field(default_factory=list)
    gap_outputs: list[Any] = field(default_factory=list)

    def by_name(self) -> list[Source]:
        """The sources in the order of their names."""
        return [self.sources[name] for name in sorted(self.sources)]
