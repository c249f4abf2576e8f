"""The metrics say what the state says, and nothing that is not known."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from schemas.record import Candle, Record
from tests.market import MINUTE, NOON, SECOND, instrument, link, quote
from tests.topology.processes import ROOT
from topology.stages.partition import Partition
from topology.web import metrics, sink_views


def steady(source: str, count: int = 10, start: int = NOON) -> list[Record]:
    """Quotes a second apart."""
    return [quote(at=start + n * SECOND, source=source, bid_size=n + 1) for n in range(count)]


def lane_of(partition: Partition, **fields: Any) -> SimpleNamespace:
    """As much of a lane as the metrics look at."""
    task = SimpleNamespace(partition=partition, processed=20, dead_letters={"UNDECODABLE": 2}, offset=19, waiting=3)
    return SimpleNamespace(task=task, commit_age=5.0, **fields)


def scraped(lanes: dict[int, Any], ready: str = "", end: int | None = 25) -> dict[tuple[str, ...], float]:
    """Samples by (name, label values in order of label)."""
    collector = metrics.WorkerCollector(lanes, lambda: ready, lambda _number: end, lambda _number: 3)
    text = generate_latest(metrics.registry(collector)).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_count_what_the_state_counts_by_partition_source_and_reason() -> None:
    partition = Partition(4, {"EURUSD": instrument(), "GBPUSD": instrument("GBPUSD")})
    records = [*steady("a"), *steady("a", 1), quote(109_900, 109_910, NOON + 10 * SECOND), *steady("b", 1)]
    records += [quote(symbol="GBPUSD"), link("disconnected", NOON + 11 * SECOND, symbol="GBPUSD")]
    records += [Candle("EURUSD", "b", NOON, 0, ticks=1)]  # of a minute that is whole already
    for offset, record in enumerate(records):
        partition.apply(record, offset, NOON + MINUTE)
    values = scraped({4: lane_of(partition)})
    assert values["tickloom_ticks_arrived_total", "4", "a"] == 13
    assert values["tickloom_candles_unused_total", "4", "b"] == 1
    assert values["tickloom_ticks_accepted_total", "4", "a"] == 11
    assert values["tickloom_ticks_held", "4", "a"] == 1
    assert values["tickloom_ticks_rejected_total", "4", "DUPLICATE", "a"] == 1
    assert values["tickloom_records_processed_total", "4"] == 20
    assert values["tickloom_dead_letters_total", "4", "UNDECODABLE"] == 2
    assert values["tickloom_consumer_lag_records", "4"] == 5
    assert values["tickloom_records_missed_total", "4"] == 3
    assert values["tickloom_commit_age_seconds", "4"] == 5
    assert values["tickloom_stream_time_seconds", "4"] == pytest.approx((NOON + 11 * SECOND) / SECOND)
    assert values["tickloom_sources", "a", "disconnected"] == 1
    assert values["tickloom_sources", "a", "stale"] == 0  # known to be none, not unknown
    assert values["tickloom_gaps_open", "4", "a"] == 1
    assert values["tickloom_worker_ready",] == 1
    assert values["process_resident_memory_bytes",] > 1_000_000
    assert values["process_cpu_seconds_total",] > 0
    assert not any("EURUSD" in key for key in values)


def test_the_metrics_say_nothing_that_is_not_known() -> None:
    values = scraped({4: lane_of(Partition(4, {}))}, ready="recovering", end=None)
    assert values["tickloom_worker_ready",] == 0
    assert ("tickloom_consumer_lag_records", "4") not in values


def test_the_documentation_names_every_metric_and_its_labels() -> None:
    listed = re.findall(r"^\| `(tickloom_\w+)` \| ([\w, ]*?) ?\|", (ROOT / "docs" / "operating.md").read_text(), re.M)
    app = SimpleNamespace(monitor=SimpleNamespace(tp_end_offsets={}), consumer=SimpleNamespace(spans={}, missed={}))
    writer = SimpleNamespace(away_since=0, retries=0)
    sink = SimpleNamespace(
        writer=writer, refused={}, written=0, waiting=0, commits=0, commit_seconds=0.0, commit_age=0.0
    )
    lanes: dict[int, Any] = {4: lane_of(Partition(4, {}))}
    worker = metrics.WorkerCollector(lanes, lambda: "", lambda _number: 25, lambda _number: 0)
    served: list[Any] = [*worker.collect(), *sink_views.SinkCollector(app, sink).collect()]
    suffix = {"counter": "_total", "gauge": ""}
    assert sorted(listed) == sorted((f"{m.name}{suffix[m.type]}", ", ".join(m._labelnames)) for m in served)
