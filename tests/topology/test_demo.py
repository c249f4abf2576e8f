"""The demo: the pipeline held against what the feed injected, under the test driver and once for real."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import yaml
from rich.console import Console

from connectors import simulated
from connectors.simulated import SECOND, Event, Feed, Label
from deploy.local import Stack
from schemas import flags, instrument, topics
from schemas.record import Best, Gap, Quote, Rejected, replace
from tests.topology.processes import free_ports
from topology import admin, config
from topology.demo import rows, run
from topology.demo.expected import Expected
from topology.demo.play import Demo, DemoError, check_alive
from topology.demo.report import Row, Stored, compare
from topology.demo.run import SHORTEST_S
from topology.demo.seen import Latency, Seen
from topology.driver import TopologyDriver
from topology.storage import database

START = 1_790_000_000 * SECOND + 123_456_789


@dataclass
class Played:
    """A feed that was piped through the topology: what was sent, and what was read."""

    expected: Expected
    seen: Seen

    @property
    def stored(self) -> Stored:
        """What a sink without defects would have stored."""
        return Stored(ticks=dict(self.seen.accepted), candles=self.seen.candles, gaps=self.seen.gaps)

    def rows(self, stored: Stored | None = None) -> dict[str, Row]:
        return {row.injected: row for row in compare(self.expected, self.seen, stored or self.stored)}


def play(feed: Feed, directory: Path, stop_after: int = 0) -> Played:
    path = directory / "instruments.yaml"
    classes = yaml.safe_load(instrument.DEFAULT.read_text())["classes"]
    path.write_text(yaml.safe_dump(simulated.instruments(classes)))
    driver = TopologyDriver(instrument.load(path))
    played = Played(Expected(), Seen())
    for number, event in enumerate(feed):
        if number == stop_after > 0:
            feed.finish()
        played.expected.note(event)
        driver.pipe(event.record, append=event.due_ns)
    for topic in topics.TOPICS:
        for output in driver.read(topic):
            played.seen.take(output.record, output.record.ts_recv if topic is topics.BEST else START)
    return played


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(Feed(1, START, START + 90 * SECOND), tmp_path_factory.mktemp("demo"))


def test_the_pipeline_reports_exactly_what_was_injected(played: Played) -> None:
    assert [(row.injected, row.differences) for row in played.rows().values() if not row.ok] == []


def test_brokers_fall_silent_one_after_the_other(played: Played) -> None:
    silent = [gap for gap in played.expected.gaps() if gap.cause == "stale"]
    assert Counter(gap.source for gap in silent) == {"bravo": 6, "alfa": 6, "echo": 6}
    assert played.expected.total(Label.HEARTBEAT) == 0  # a link is not counted among the ticks


@pytest.mark.parametrize("seed", range(100, 102))
def test_every_kind_of_fault_occurs_in_the_shortest_demo(tmp_path: Path, seed: int) -> None:
    rows = play(Feed(seed, START, START + SHORTEST_S * SECOND), tmp_path).rows()
    assert [what for what, row in rows.items() if not row.ok] == []
    assert {what for what, row in rows.items() if not row.expected} == {"nothing else", "records nobody can read"}


@pytest.mark.parametrize("seed", range(2, 5))
def test_the_outcome_is_certain_for_any_seed_minute_and_moment_of_ctrl_c(tmp_path: Path, seed: int) -> None:
    feed = Feed(seed, START + seed * 13 * SECOND)
    rows = play(feed, tmp_path, stop_after=seed * 4_321).rows()
    assert [(what, row.differences) for what, row in rows.items() if not row.ok] == []


def test_a_refusal_that_is_not_reported_is_a_difference(played: Played) -> None:
    seen = Seen()
    seen.refused = Counter({k: n for k, n in played.seen.refused.items() if k[0] != flags.SPIKE})
    row = Played(played.expected, seen).rows()["single-tick spikes"]
    assert not row.ok
    assert (row.expected, row.reported) == (played.expected.total(Label.SPIKE), 0)


def test_the_right_total_in_the_wrong_source_is_a_difference(played: Played) -> None:
    stored = played.stored
    stored.ticks["EURUSD", "alfa"] += 1
    stored.ticks["EURUSD", "bravo"] -= 1
    row = played.rows(stored)["accepted ticks"]
    assert row.expected == row.reported
    assert [difference.split(":")[0] for difference in row.differences] == ["EURUSD alfa", "EURUSD bravo"]


def test_a_candle_that_is_missing_wrong_or_not_final_is_a_difference(played: Played) -> None:
    wrong, early, missing = sorted(k for k, c in played.expected.candles().items() if c.revision == 0)[:3]
    candles = dict(played.seen.candles)
    candles[wrong] = replace(candles[wrong], mid_high=candles[wrong].mid_high + 1)
    candles[early] = replace(candles[early], revision=-1)
    del candles[missing]
    stored = msgspec.structs.replace(played.stored, candles=candles)
    said = " ".join(played.rows(stored)["candles of brokers"].differences)
    assert all(word in said for word in ("mid_high", "not final", "missing"))
    assert len(played.rows(stored)["candles of brokers"].differences) == 3


def test_a_gap_from_another_time_is_a_difference(played: Played) -> None:
    gaps = {key: replace(gap, end=gap.end + 1) for key, gap in played.seen.gaps.items()}
    stored = msgspec.structs.replace(played.stored, gaps=gaps)
    assert len(played.rows(stored)["gaps"].differences) == len(gaps)


def quote(at: int, **fields: object) -> Quote:
    return Quote(**{"symbol": "EURUSD", "source": "alfa", "ts_event": at, "ts_recv": at, "bid": 1, "ask": 2, **fields})  # type: ignore[arg-type]


def test_the_same_of_several_symbols_is_told_in_one_line() -> None:
    seen = Seen()
    for symbol in ("EURUSD", "GBPUSD"):
        seen.take(Gap(symbol, "bravo", START, 0, "stale", "open"), START)
    [happening] = seen.happenings
    assert happening.symbols == ["EURUSD", "GBPUSD"]
    assert "silent" in happening.what
    assert len(seen.open_gaps()) == 2


def test_the_rate_forgets_what_is_older_than_five_seconds() -> None:
    seen = Seen()
    for second in range(10):
        seen.take(quote(START), START + second * SECOND)
    assert seen.rate("EURUSD", START + 9 * SECOND) == 6 / 5
    assert seen.rate("EURUSD", START + 30 * SECOND) == 0


def test_a_refused_spike_is_told_and_a_duplicate_is_not() -> None:
    seen = Seen()
    for reason in (flags.SPIKE, flags.SPIKE_TIMEOUT, flags.DUPLICATE):
        seen.take(Rejected(quote(START), reason, 0, 0, 0), START)
    assert len(seen.happenings) == 2
    assert seen.total_refused() == 3


def test_latency_is_of_best_prices_that_a_tick_made() -> None:
    seen = Seen()
    best = Best("EURUSD", START - 1, START, "normal", 1, 0, "alfa", 2, 0, "alfa", 15, 1)
    seen.take(best, START + 3_000_000)
    seen.take(replace(best, ts_event=START), START + SECOND)  # time alone made it
    assert seen.latency.percentile(0.99) == 3.0


def test_latency_of_late_forgets_and_the_first_ten_seconds_are_told_apart() -> None:
    seen = Seen()
    best = Best("EURUSD", START - 1, START, "normal", 1, 0, "alfa", 2, 0, "alfa", 15, 1)
    for second in range(30):
        took = 2 * SECOND if second < 10 else 5_000_000
        now = START + second * SECOND
        seen.take(replace(best, ts_recv=now - took, ts_event=now - took - 1), now)
    assert seen.latency.percentile(0.99) == 2_000.0
    assert seen.settled.percentile(0.99) == 5.0
    assert seen.recent_latency(START + 29 * SECOND).percentile(0.99) == 5.0
    assert seen.recent_latency(START + 60 * SECOND).percentile(0.99) is None


def test_percentiles_of_latency() -> None:
    latency = Latency()
    assert latency.percentile(0.5) is None
    for ms in range(1, 101):
        latency.add(ms * 1_000_000)
    assert (latency.percentile(0.5), latency.percentile(0.99)) == (50.0, 99.0)


def run_for(environment: dict[str, str], tmp_path: Path, seconds: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "topology.cli", "demo", "--seconds", seconds]
    [port] = free_ports(1)  # not 6066, for which other tests may compete
    env = {**environment, "TICKLOOM_STATE": str(tmp_path), "TICKLOOM_WEB_PORT": str(port)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.integration
def test_the_demo_agrees_and_leaves_nothing_behind(stack: Stack, environment: dict[str, str], tmp_path: Path) -> None:
    done = run_for(environment, tmp_path, str(SHORTEST_S))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 19 lines agree" in done.stdout
    assert "web views at http://127.0.0.1:" in done.stdout
    [run] = set(re.findall(r"demo-\d{8}-\d{6}", done.stdout))
    left = [name for name in admin.connect(stack.broker).list_topics().topics if name.startswith("demo-")]
    assert left == []
    with database.connect(stack.database) as connection:
        assert not any(rows.count(connection, run).values())
    assert list(tmp_path.glob("demo-*")) == []


@pytest.fixture
def idle(stack: Stack, tmp_path: Path) -> Demo:
    """A demo whose servers run, and nothing else."""
    database.migrate(stack.database, lambda _: None)
    settings = config.Settings(stack.broker, stack.database, run="demo-idle")
    return Demo(settings, tmp_path, Console(width=120), SHORTEST_S)


@pytest.mark.integration
def test_what_was_sent_and_is_nowhere_makes_the_demo_fail(idle: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Event(START, quote(START), Label.CLEAN)
    monkeypatch.setattr(run, "play", lambda demo: demo.expected.note(sent))
    assert run._run(idle) == 1
    assert not idle.agreed


def test_a_process_that_ends_too_early_is_named_with_its_last_error(tmp_path: Path) -> None:
    failed = Demo(config.Settings(), tmp_path, Console(), None)
    (tmp_path / "sink.log").write_text("starting\nValueError: no such thing\nstopping\n")
    failed.processes["sink"] = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    failed.processes["sink"].wait()
    with pytest.raises(DemoError, match=r"the sink ended with code 3: ValueError: no such thing .*sink\.log"):
        check_alive(failed)


def test_a_demo_too_short_for_its_faults_is_refused() -> None:
    with pytest.raises(instrument.ConfigError, match=f"{SHORTEST_S} or more"):
        run.run_demo(SHORTEST_S - 1)
