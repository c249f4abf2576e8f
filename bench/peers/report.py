"""The peers' section of the page: what is to be reached, and the tables."""

import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from topology.delivery import COMMIT_SECONDS

TITLES: Final = {
    "tickloom-eos": f"**tickloom, exactly once** ({COMMIT_SECONDS['exactly_once']:g} s)",
    "tickloom-alo": "**tickloom, at least once** (1 s)",
    "streams-rocksdb-eos": "Kafka Streams, RocksDB, exactly once (0.1 s)",
    "streams-rocksdb-eos-tuned": "Kafka Streams, exactly once, linger 5 ms, batch 256 KiB",
    "streams-rocksdb-alo": "Kafka Streams, RocksDB, at least once (1 s)",
    "streams-rocksdb-alo-tuned": "Kafka Streams, at least once, linger 5 ms, batch 256 KiB",
    "confluent": "bare confluent-kafka loop, no state kept",
    "faust": "stock Faust, at least once",
}


def rates(section: dict[str, Any], peer: str, field: str = "rate") -> list[float]:
    """What the runs of a peer gave, in ascending order."""
    return sorted(row[field] for row in section["runs"] if row["peer"] == peer)


def lives(section: dict[str, Any], peer: str, field: str) -> list[float]:
    """The same of its live measurements."""
    return sorted(row[field] for row in section["live"] if row["peer"] == peer)


def wrong(results: dict[str, Any]) -> list[str]:
    """Everything that the peers' oracle found wrong."""
    rows = results.get("peers", {}).get("runs", [])
    return [f"{row['peer']}: {line}" for row in rows for line in row["wrong"]]


def targets(section: dict[str, Any]) -> Iterator[tuple[str, float, float, str, bool]]:
    """Issue 5: (what, value, limit, unit, whether at least), as far as it has been measured."""

    def times(ours: str, peer: str) -> float:
        return statistics.median(rates(section, ours)) / statistics.median(rates(section, peer))

    for peer, title, limit in (
        ("streams-rocksdb-eos", "times Kafka Streams, RocksDB, exactly once, both", 1),
        ("streams-rocksdb-eos-tuned", "the same with its producer tuned", 1),
        ("confluent", "times the peers' bare loop, exactly once", 2),
        ("faust", "times stock Faust at the peers' work, exactly once", 100),
    ):
        if rates(section, peer):
            yield title, round(times("tickloom-eos", peer), 2), limit, "x", True
    for kind, title in (("alo", "at least once"), ("eos", "exactly once")):
        if not lives(section, f"tickloom-{kind}", "p50_ms"):
            continue
        for field, name, share in (("p50_ms", "p50", 1.0), ("p99_ms", "p99", 1 / 3)):
            ours, streams = (
                statistics.median(lives(section, peer, field))
                for peer in (f"tickloom-{kind}", f"streams-rocksdb-{kind}-tuned")
            )
            yield f"{name} at 5,000/s, {title}, beside Kafka Streams", ours, round(streams * share, 1), "ms", False


def markdown(section: dict[str, Any], table: Callable[[str, Iterable[Iterable[object]]], str]) -> str:
    """The tables."""
    base = statistics.median(rates(section, "tickloom-eos"))
    runs = [
        (
            title,
            f"{own[0]['records']:,}",
            _spread(rates(section, peer)),
            f"{statistics.median(rates(section, peer, 'rate_second_half')):,.0f}",
            f"{base / statistics.median(rates(section, peer)):.2f}",
            _spread(rates(section, peer, "cpu_s_per_million")),
            f"{statistics.median(rates(section, peer, 'broker_cpu_s_per_million')):.1f}",
            f"{max(row['rss_mib'] for row in own):,}",
            "NO" if any(row["wrong"] for row in own) else "yes",
        )
        for peer, title in TITLES.items()
        if (own := [row for row in section["runs"] if row["peer"] == peer])
    ]
    live = [
        (
            title,
            f"{own[0]['rate']:,}",
            *(_spread(lives(section, peer, field)) for field in ("p50_ms", "p99_ms", "p999_ms")),
            f"{statistics.median(lives(section, peer, 'cpu_cores')):.2f}",
            "yes" if all(row["behind_at_end"] < row["rate"] for row in own) else "NO",
        )
        for peer, title in TITLES.items()
        if (own := [row for row in section["live"] if row["peer"] == peer])
    ]
    return (
        "### The peers' work: beside Kafka Streams\n\n"
        + table(
            "what | records | records/s: min / **median** / max | second half | tickloom exactly once is x times | "
            "CPU s per million | Kafka's CPU s per million | peak MiB | outputs right",
            runs,
        )
        + "\n\n"
        + table(
            "from produce to best price consumed | records/s | p50 ms: min / **median** / max | p99 ms | p99.9 ms | "
            "cores used | held",
            live,
        )
    )


def _spread(values: list[float]) -> str:
    return f"{values[0]:,g} / **{statistics.median(values):,g}** / {values[-1]:,g}"
