"""Prometheus metrics of one worker, read from its state when somebody asks: the way of a tick pays nothing.

Counters of ticks are part of the state, so they survive a restart and move with their partition to another worker:
sum them over workers by ``rate``, not by value. Those of records and dead letters begin when the partition is assigned.
Nothing is labelled by symbol: there may be thousands.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from topology.delivery import Lane
from topology.stages import liveness
from topology.stages.feed import Feed
from topology.task import Task

SECOND: Final = 1_000_000_000
#: States of the best price; a symbol without any source yet counts as no_source.
STATES: Final = ("normal", "locked", "crossed", "single_source", "low_confidence", "no_source")

Labels = tuple[str, ...]
Lanes = list[tuple[int, Lane[Task]]]


class WorkerCollector(Collector):
    """Reads the lanes of a worker. ``ready``: nothing, or why not; ``end`` and ``missed``: of a partition."""

    def __init__(
        self,
        lanes: Mapping[int, Lane[Task]],
        ready: Callable[[], str],
        end: Callable[[int], int | None],
        missed: Callable[[int], int],
    ) -> None:
        self._lanes = lanes
        self._ready = ready
        self._end = end  # of market.raw
        self._missed = missed

    def describe(self) -> list[Metric]:
        """Nothing: the names need no reading of state to be registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        yield gauge("worker_ready", "1 where the worker is assigned and recovered.", (), {(): not self._ready()})
        lanes = sorted(self._lanes.items())
        yield from self._partitions(lanes)
        yield from _symbols(lanes)
        yield from _sources(lanes)

    def _partitions(self, lanes: Lanes) -> Iterator[Metric]:
        by = ("partition",)
        tasks = {(str(number),): lane.task for number, lane in lanes}
        yield counter(
            "records_processed",
            "Records of market.raw, since the partition was assigned.",
            by,
            {key: task.processed for key, task in tasks.items()},
        )
        yield counter(
            "records_missed",
            "Records of market.raw that were deleted before they were read, since the worker started.",
            by,
            {(str(number),): self._missed(number) for number, _ in lanes},
        )
        yield counter(
            "dead_letters",
            "Records that could not be decoded or applied, since the partition was assigned.",
            (*by, "reason"),
            {(*key, reason): n for key, task in tasks.items() for reason, n in task.dead_letters.items()},
        )
        yield gauge(
            "consumer_lag_records",
            "Records of market.raw behind the last one processed.",
            by,
            {
                (str(number),): max(0, end - lane.task.offset - 1)
                for number, lane in lanes
                if (end := self._end(number)) is not None
            },
        )
        yield gauge(
            "stream_time_seconds",
            "The partition's own time, as Unix time: of its newest clock record or symbol.",
            by,
            {
                key: max([task.partition.clock, *(each.now for each in task.partition.symbols.values())]) / SECOND
                for key, task in tasks.items()
            },
        )
        yield gauge(
            "commit_age_seconds",
            "How long records that were processed wait to be made durable and committed.",
            by,
            {(str(number),): lane.commit_age for number, lane in lanes},
        )
        yield gauge(
            "outputs_waiting_records",
            "Outputs made and not yet handed to the producer.",
            by,
            {key: task.waiting for key, task in tasks.items()},
        )


def registry(collector: Collector) -> CollectorRegistry:
    """A collector's metrics and those of its process: memory, CPU, open files, garbage collection."""
    found = CollectorRegistry(auto_describe=False)
    found.register(collector)
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    GCCollector(registry=found)
    return found


def _feeds(lanes: Lanes) -> Iterator[tuple[str, Feed]]:
    for number, lane in lanes:
        for symbol in lane.task.partition.symbols.values():
            for feed in symbol.feeds:
                yield str(number), feed


def _symbols(lanes: Lanes) -> Iterator[Metric]:
    states: Counter[Labels] = Counter(dict.fromkeys(((state,) for state in STATES), 0))
    for _, lane in lanes:
        for symbol in lane.task.partition.symbols.values():
            best = symbol.best.last
            states[(best.state if best else "no_source",)] += 1
    yield gauge("symbols", "Symbols by the state of their best price.", ("state",), states)


def _sources(lanes: Lanes) -> Iterator[Metric]:
    arrived, accepted, rejected, held = Counter[Labels](), Counter[Labels](), Counter[Labels](), Counter[Labels]()
    statuses, gaps, opened, unused = Counter[Labels](), Counter[Labels](), Counter[Labels](), Counter[Labels]()
    for number, feed in _feeds(lanes):
        key = number, feed.name
        arrived[key] += feed.arrived
        accepted[key] += feed.accepted
        held[key] += len(feed.spike.held)
        opened[key] += feed.life.opened
        unused[key] += feed.unused
        gaps[key] += bool(feed.life.gap_cause)
        statuses[(feed.name, liveness.NAMES[feed.life.status])] += 1
        for reason, count in feed.rejected.items():
            rejected[(*key, reason)] += count
    for source in {source for source, _ in statuses}:  # a status that nobody has is 0, not absent
        for status in liveness.NAMES:
            statuses[(source, status)] += 0
    by = ("partition", "source")
    yield counter("ticks_arrived", "Ticks that came in: accepted, held or rejected.", by, arrived)
    yield counter("ticks_accepted", "Ticks written to market.data.tick.", by, accepted)
    yield counter("ticks_rejected", "Ticks written to market.data.tick.rejected.", (*by, "reason"), rejected)
    yield gauge("ticks_held", "Suspected spikes, neither accepted nor rejected yet.", by, held)
    yield counter("gaps_opened", "Gaps found.", by, opened)
    yield gauge("gaps_open", "Gaps that are open now.", by, gaps)
    yield counter("candles_unused", "Fetched candles that were dropped: ours are as good.", by, unused)
    yield gauge("sources", "Sources of symbols by their status.", ("source", "status"), statuses)


def counter(name: str, doc: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    """A counter by labels; the name without ``tickloom_``."""
    family = CounterMetricFamily(f"tickloom_{name}", doc, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def gauge(name: str, doc: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    """A gauge by labels; the name without ``tickloom_``."""
    family = GaugeMetricFamily(f"tickloom_{name}", doc, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
