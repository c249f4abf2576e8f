"""`make soak`: a steady feed for long, memory, file handles, lag and latency sampled; flat memory, or exit code 1.

    python -m tests.faults.soak [--minutes 30] [--rate 5000] [--directory D] [--no-replay]

For the last third of the time a replay of all that has come so far runs beside it: live must keep its rate, so its lag
stays below LAG_S, and what comes out of the replay must be what came out live.

Writes soak.json and soak.svg. Memory is flat when a straight line through the samples of the last two thirds grows by
less than GROWTH_MB an hour, or by less than GROWTH_SHARE of the memory over the time that was looked at.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from bench.plot import Panel, svg
from schemas import topics
from schemas.topics import named
from tests.faults import feed, log
from tests.faults.__main__ import interrupt, say
from tests.faults.programs import Program
from tests.faults.servers import Servers
from tests.faults.world import PARTITIONS, Plan, World
from topology import admin

SAMPLE_S: Final = 5.0
GROWTH_MB: Final = 20.0  # an hour
GROWTH_SHARE: Final = 0.03  # of the memory at the end, over the last two thirds: what a short run can't tell from noise
LAG_S: Final = 2.0  # of the feed's rate, while a replay runs beside
REPLAY: Final = "beside"
REPLAY_LIMIT_S: Final = 1_800.0


class Sample(msgspec.Struct, frozen=True):
    """One look at the system."""

    at_s: float
    rss_mb: dict[str, float]
    handles: dict[str, int]
    lag: dict[str, int]
    p50_ms: float
    p99_ms: float
    replaying: bool


def main() -> int:
    """Soak; 0 where memory stayed flat and nothing ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=5_000.0)
    parser.add_argument("--directory", type=Path, default=Path(".local/soak"))
    parser.add_argument("--no-replay", action="store_true", help="without the replay beside it")
    parser.add_argument("--delivery", choices=["exactly_once", "at_least_once"], default="exactly_once")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    directory = asked.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    plan = Plan(7, int(asked.minutes * 60 * asked.rate), asked.rate, asked.delivery, False)
    samples, errors = soak(plan, directory, asked.minutes * 60, replaying=not asked.no_replay)
    errors += kept(samples, asked.rate)
    growth = {name: growing([(each.at_s, each.rss_mb[name]) for each in samples]) for name in samples[-1].rss_mb}
    for name, (an_hour, share) in growth.items():
        if an_hour > GROWTH_MB and share > GROWTH_SHARE:
            errors.append(f"the memory of the {name} grows by {an_hour:.1f} MB an hour")
    content = {
        "minutes": asked.minutes,
        "rate": asked.rate,
        "delivery": asked.delivery,
        "errors": errors,
        "growth_mb_an_hour": {name: round(an_hour, 2) for name, (an_hour, _) in growth.items()},
        "samples": [msgspec.to_builtins(each) for each in samples],
    }
    (directory / "soak.json").write_text(json.dumps(content, indent=1) + "\n")
    (directory / "soak.svg").write_text(plot(samples))
    for name, (an_hour, _) in growth.items():
        last = samples[-1]
        print(f"{name}: {last.rss_mb[name]:.0f} MB, {an_hour:+.1f} MB an hour, {last.handles[name]} handles")
    for beside in (False, True):
        if some := [each for each in samples if each.replaying is beside]:
            print(f"{'beside a replay' if beside else 'live alone'}: {told(some)}")
    print(f"plot in {directory / 'soak.svg'}")
    for error in errors:
        print(f"FAIL {error}")
    return 1 if errors else 0


def told(samples: Sequence[Sample]) -> str:
    """Latency and lag of some samples in a line."""
    p50, p99 = (statistics.median(getattr(each, name) for each in samples) for name in ("p50_ms", "p99_ms"))
    most = max(each.lag["worker"] for each in samples)
    return (
        f"latency p50 {p50:.0f} ms, p99 {p99:.0f} ms (medians of {len(samples)} samples), lag at most {most:,} records"
    )


def kept(samples: Sequence[Sample], rate: float) -> list[str]:
    """What is wrong where live has fallen behind beside a replay."""
    most = max((each.lag["worker"] for each in samples if each.replaying), default=0)
    return [f"beside a replay live fell {most:,} records behind"] if most > LAG_S * rate else []


def soak(plan: Plan, directory: Path, seconds: float, *, replaying: bool) -> tuple[list[Sample], list[str]]:
    """Feed for so long and sample; give the samples and what went wrong."""
    instruments = directory / "instruments.yaml"
    feed.write_instruments(instruments)
    samples: list[Sample] = []
    with Servers(directory, say) as servers:
        world = World("soak", servers.single(), servers.postgres(), instruments, directory / "soak", plan, say)
        try:
            world.begin()
            world.feed()
            limit = time.monotonic() + seconds
            replay = None
            sunk = [named(topic.name, world.run) for topic in admin.SUNK]
            lags = {
                "worker": log.Lag(
                    world.broker, admin.app_id(world.run), [named(topics.RAW.name, world.run)], PARTITIONS
                ),
                "sink": log.Lag(world.broker, admin.sink_id(world.run), sunk, PARTITIONS),
            }
            while time.monotonic() < limit:
                world.pause(SAMPLE_S)
                if replaying and replay is None and time.monotonic() > limit - seconds / 3:
                    replay = tickloom(world, "replay", "--run", REPLAY)
                samples.append(look(world, lags, replay))
                if len(samples) % 12 == 0:
                    say(str(samples[-1]))
            for lag in lags.values():
                lag.close()
            world.settle()
            if replay is not None:
                compared(world, replay)
            world.stop()
        finally:
            world.close()
        errors = [*world.errors, *(f"{name} ended {count} times" for name, count in world.ended.items())]
    return samples, errors


def tickloom(world: World, *arguments: str) -> Program:
    """Start a command in the run of the soak."""
    path = world.directory / "replay.log"
    return Program("replay", [*world.plan.entry, *arguments], world.environment("replay"), path, world.plan.tree)


def compared(world: World, replay: Program) -> None:
    """Wait for the replay's end; what came out of it is what came out live."""
    world.until(lambda: replay.code is not None, REPLAY_LIMIT_S, "the replay does not end", replay.tail)
    compare = tickloom(world, "replay", "compare", REPLAY)
    world.until(lambda: compare.code is not None, REPLAY_LIMIT_S, "the comparison does not end", compare.tail)
    if replay.code or compare.code:
        world.errors.append(f"replay ended with {replay.code}, compare with {compare.code}:\n{compare.tail()}")
    say(compare.tail())


def look(world: World, lags: dict[str, log.Lag], replay: Program | None) -> Sample:
    """One sample."""
    programs: dict[str, Program] = {"worker": world.workers[0], "sink": world.sinks[0]}
    processes = {name: psutil.Process(program.pid) for name, program in programs.items()}
    latencies = sorted(world.watch.latencies()) or [0.0]
    return Sample(
        at_s=round(world.now_s, 1),
        rss_mb={name: round(each.memory_info().rss / (1 << 20), 1) for name, each in processes.items()},
        handles={name: each.num_fds() for name, each in processes.items()},
        lag={name: sum((lag.behind() or {}).values()) for name, lag in lags.items()},
        p50_ms=round(1000 * statistics.median(latencies), 1),
        p99_ms=round(1000 * latencies[int(0.99 * (len(latencies) - 1))], 1),
        replaying=replay is not None and replay.code is None,
    )


def growing(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of the last two thirds: the slope of the straight line through them, an hour, and its rise as a share."""
    late = samples[len(samples) // 3 :]
    if len(late) < 2:
        return 0.0, 0.0
    slope, _ = statistics.linear_regression(*zip(*late, strict=True))
    return slope * 3600, slope * (late[-1][0] - late[0][0]) / late[-1][1]


def plot(samples: Sequence[Sample]) -> str:
    """The samples as an SVG, one panel for each thing that was sampled."""
    panels: list[tuple[str, dict[str, Callable[[Sample], float]]]] = [
        ("memory, MB", {name: lambda each, name=name: each.rss_mb[name] for name in samples[-1].rss_mb}),
        ("file handles", {name: lambda each, name=name: each.handles[name] for name in samples[-1].handles}),
        ("lag, records", {name: lambda each, name=name: each.lag[name] for name in samples[-1].lag}),
        ("latency, ms", {"p50": lambda each: each.p50_ms, "p99": lambda each: each.p99_ms}),
    ]
    until = samples[-1].at_s
    return svg(
        [
            Panel(
                title,
                {name: [(each.at_s, value(each)) for each in samples] for name, value in lines.items()},
                {f"{until / 60:.1f} min": until},
            )
            for title, lines in panels
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
