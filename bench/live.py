"""What a tick costs live, with full windows: CPU of the worker and of Kafka, and bytes of state written.

A state goes to the changelog every few seconds, however many ticks have changed it; with every commit goes the record
of its partition. So what a tick costs there is less the more ticks there are.
"""

import time
from typing import Any, Final

import msgspec

from bench import handover, kafka
from bench.process import Process, worker
from bench.rig import Rig
from schemas.record import Quote
from topology import admin
from topology.config import DELIVERIES, Settings

RATE: Final = 5_000  # ticks a second
MEASURED_S: Final = 15.0
SETTLE_S: Final = 3.0


def measure(rig: Rig, settings: Settings, last: list[Quote], *, seconds: float = MEASURED_S) -> list[dict[str, Any]]:
    """Feed a run that has full windows; a row for each delivery. Nothing of its changelog is compacted any more."""
    run = settings.run
    kafka.keep(rig.client, admin.state_topic(run))
    rows = []
    with handover.feed(rig, run, last, RATE) as feeder:
        for delivery in DELIVERIES:
            own = msgspec.structs.replace(settings, delivery=delivery)
            with worker(own, rig.log(run)) as process:
                rig.await_worker(process, run)
                time.sleep(SETTLE_S)
                rows.append({"delivery": delivery, "rate": RATE, **_measure(rig, process, feeder, run, seconds)})
                feeder.check()
            row = rows[-1]
            rig.say(
                f"        live, {delivery}: {row['changelog_records_per_tick']} states and "
                f"{row['changelog_bytes_per_tick']:,} bytes of changelog per tick, {row['cpu_s_per_million']} CPU s "
                f"per million, Kafka's {row['kafka_cpu_s_per_million']}"
            )
    return rows


def _measure(rig: Rig, process: Process, feeder: handover.Feeder, run: str, seconds: float) -> dict[str, float]:
    changelog = admin.state_topic(run)

    def look() -> tuple[float, ...]:
        records = sum(kafka.ends(rig.client, changelog).values())
        return feeder.sent, rig.stored_bytes(changelog), records, process.cpu_seconds(), rig.kafka_cpu_seconds()

    before = look()
    time.sleep(seconds)
    ticks, size, records, cpu, broker = (now - then for now, then in zip(look(), before, strict=True))
    return {
        "changelog_bytes_per_tick": round(size / ticks),
        "changelog_records_per_tick": round(records / ticks, 3),
        "cpu_s_per_million": round(cpu / ticks * 1e6, 1),
        "kafka_cpu_s_per_million": round(broker / ticks * 1e6, 1),
    }
