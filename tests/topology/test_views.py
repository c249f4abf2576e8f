"""The web views: exact numbers, the same from any worker, and one clear line where there is no answer."""

import asyncio
import http.client
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from faust.types import TP
from prometheus_client.parser import text_string_to_metric_families

from connectors.runtime.producer import partition_of
from deploy.local import Stack
from schemas import topics
from schemas.codec import Codec
from schemas.instrument import load
from schemas.record import Record
from tests.market import (
    FIVE,
    MINUTE,
    NOON,
    SECOND,
    clock,
    instrument,
    link,
    market,
    play,
    quote,
    random_acts,
    random_setup,
    trade,
)
from tests.market import instruments_of as market_instruments
from tests.topology.fake_app import FakeApp, router_of
from tests.topology.processes import PARTITIONS, ROOT, Process, free_ports, produce, read, wait_for_no_lag
from topology.admin import create_topics
from topology.stages.partition import Partition
from topology.stages.pipeline import Symbol
from topology.web import describe, routing, state_view
from topology.web.routing import PASSED_ON, Unavailable


def fed(*records: Record, **fields: Any) -> tuple[Symbol, Partition]:
    """EURUSD after these records, and its partition, number 3."""
    partition = Partition(3, {"EURUSD": instrument(**fields)})
    for offset, record in enumerate(records):
        assert partition.apply(record, offset, record.ts_recv) == ""
    return partition.symbols["EURUSD"], partition


def steady(source: str, count: int = 10, start: int = NOON) -> list[Record]:
    """Quotes a second apart."""
    return [quote(at=start + n * SECOND, source=source, bid_size=n + 1) for n in range(count)]


# What is shown.


def test_prices_are_exact_text_at_the_instruments_scale_and_times_keep_their_nanoseconds() -> None:
    shown_of = fed(quote(109_120, 109_132, NOON + 7, bid_size=250, ask_size=5), size_scale=2)
    best = state_view.details(*shown_of)["best"]
    assert (best["bid"], best["ask"], best["spread"]) == ("1.09120", "1.09132", "0.00012")
    assert (best["consensus"], best["spread_bps"], best["bid_size"]) == ("1.091260", "1.09", "2.50")
    assert best["ts_event"] == "2026-03-04T12:00:00.000000007Z"
    assert best["ts_event_ns"] == NOON + 7


def test_a_side_that_is_missing_is_null_and_no_price_at_all() -> None:
    shown_of = fed(quote(0, 109_132))
    [source] = state_view.details(*shown_of)["sources"]
    assert (source["quote"]["bid"], source["quote"]["ask"], source["quote"]["spread"]) == (None, "1.09132", None)
    assert source["standing"] == "not clean"
    assert state_view.summary(*shown_of)["best"] is None


def test_a_held_tick_shows_the_numbers_that_made_it_a_suspect() -> None:
    shown_of = fed(*steady("a"), quote(109_900, 109_910, NOON + 10 * SECOND))
    [source] = state_view.details(*shown_of)["sources"]
    [held] = source["held_ticks"]
    assert (held["kind"], held["bid"], held["ask"]) == ("quote", "1.09900", "1.09910")
    assert (held["observed"], held["median"], held["band"]) == ("1.099050", "1.090050", "0.000500")
    assert held["offset"] == 10
    assert (source["arrived"], source["accepted"], source["held"]) == (11, 10, 1)
    assert source["standing"] == "suspect"


def test_an_open_gap_shows_where_coverage_ended_why_and_for_how_long() -> None:
    shown_of = fed(*steady("a"), link("disconnected", NOON + 20 * SECOND), clock(NOON + 50 * SECOND))
    [gap] = state_view.open_gaps(*shown_of)
    assert (gap["source"], gap["cause"], gap["start_ns"]) == ("a", "disconnect", NOON + 9 * SECOND)
    assert gap["lasting_ns"] == 41 * SECOND
    [source] = state_view.details(*shown_of)["sources"]
    assert source["status"] == source["standing"] == "disconnected"
    assert source["open_gap"] == {
        "start": "2026-03-04T12:00:09.000000000Z",
        "start_ns": NOON + 9 * SECOND,
        "cause": "disconnect",
    }


def test_a_source_says_how_long_its_quote_stays_good() -> None:
    [source] = state_view.details(*fed(*steady("a", 3)))["sources"]
    assert source["ttl_ns"] == 8 * SECOND  # eight times its own pace
    assert source["alive_until_ns"] == NOON + 10 * SECOND


def test_the_minutes_shown_are_those_that_can_still_grow() -> None:
    later = quote(109_050, 109_060, NOON + MINUTE + 5 * SECOND)
    shown_of = fed(*steady("a"), later, trade(109_055, NOON + MINUTE + 6 * SECOND, size=4))
    [source] = state_view.details(*shown_of)["sources"]
    [minute] = source["minutes"]
    assert minute["start"] == "2026-03-04T12:01:00.000000000Z"
    assert minute["mid"]["close"] == "1.090550"
    assert minute["trade"] == {"open": "1.09055", "high": "1.09055", "low": "1.09055", "close": "1.09055"}
    assert (minute["ticks"], minute["trades"], minute["volume"]) == (1, 1, "4")


@pytest.mark.parametrize("seed", range(8))
def test_every_tick_is_accounted_for_in_any_market(seed: int) -> None:
    chance = random.Random(seed)
    setup = random_setup(chance)
    partition = Partition(0, market_instruments(setup))
    for offset, piped in enumerate(play(setup, random_acts(chance, 600))):
        partition.apply(piped.record, offset, piped.append)
    shown: Any = msgspec.json.decode(
        msgspec.json.encode([state_view.details(s, partition) for s in partition.symbols.values()])
    )
    assert shown
    for symbol in shown:
        for source in symbol["sources"]:
            refused = sum(source["rejected"].values())
            assert source["arrived"] == source["accepted"] + source["held"] + refused
            assert source["held"] == len(source["held_ticks"])
    rows = [row for symbol in partition.symbols.values() for row in state_view.shares(symbol, partition)]
    assert state_view.totals(state_view.totals(rows[:5]) + rows[5:]) == state_view.totals(rows)
    for name in ("arrived", "accepted", "held", "gaps"):
        by_symbol = sum(source[name] for symbol in shown for source in symbol["sources"])
        assert sum(total[name] for total in state_view.totals(rows)) == by_symbol


def test_the_topology_names_the_stages_in_the_order_in_which_the_pipeline_runs_them() -> None:
    said = re.search(r"^    (\w.* -> .*)$", (ROOT / "topology" / "stages" / "pipeline.py").read_text(), re.MULTILINE)
    assert said is not None
    assert [stage.name for stage in describe.STAGES] == said[1].split(" -> ")


def test_the_topology_connects_every_topic_of_the_run() -> None:
    shown = describe.as_json("r")
    worker, sink = shown["sub_topologies"]
    used = {topic for part in (worker, sink) for node in part["nodes"] for topic in node["topics"]}
    assert used == {f"r.{topic.name}" for topic in topics.TOPICS} == {topic["name"] for topic in shown["topics"]}
    for part in (worker, sink):
        nodes = {node["name"]: node for node in part["nodes"]}
        for name, node in nodes.items():
            for after in node["after"]:
                assert name in nodes[after]["before"], f"{name} --> {after}"
    assert shown["stores"] == [{**shown["stores"][0], "changelog": "r.tickloom-symbols-changelog"}]
    text = describe.as_text("r").splitlines()
    assert text[:4] == [
        "Topologies:",
        "   Sub-topology: 0 for r.tickloom (worker)",
        "    Source: ticks (topics: [r.market.raw])",
        "      --> decode",
    ]
    assert "      <-- dedup, validity, spike" in text


# Routing, without Kafka.


SYMBOL_OF = {partition_of(name.encode(), 4): name for name in load()}  # a symbol of each partition


def test_a_symbol_is_looked_for_where_its_partition_is() -> None:
    router = router_of(FakeApp({"http://10.0.0.2:6066": [2, 3]}))
    assert router.owner(SYMBOL_OF[1]) == (1, "")
    assert router.owner(SYMBOL_OF[2]) == (2, "http://10.0.0.2:6066")


@pytest.mark.parametrize("elsewhere", [{}, {"http://127.0.0.1:6066": [2, 3]}], ids=["unknown", "the same"])
def test_workers_that_share_an_address_are_told_so_instead_of_asking_themselves(
    elsewhere: dict[str, list[int]],
) -> None:
    router = router_of(FakeApp(elsewhere))
    with pytest.raises(Unavailable, match="give each a TICKLOOM_WEB_HOST"):
        router.owner(SYMBOL_OF[2])
    answers, missing = asyncio.run(router.ask_others("/symbols"))
    assert answers == []
    assert len(missing) == 1
    assert "TICKLOOM_WEB_PORT" in missing[0]


def test_a_worker_says_why_it_cannot_answer_yet() -> None:
    app = FakeApp({})
    router = router_of(app)
    assert router.unsettled() == ""
    app.rebalancing, app.rebalancing_count = True, 2
    assert router.unsettled() == "partitions are being reassigned among the workers"
    app.recovery.in_recovery = True
    app.recovery.active_stats = lambda: {
        TP("state", 0): SimpleNamespace(remaining=1200),
        TP("state", 1): SimpleNamespace(remaining=34),
    }
    assert router.unsettled() == "recovering state: 1,234 changelog records left in 2 partitions"
    with pytest.raises(Unavailable, match="recovering"):
        router.owner("EURUSD")
    app.should_stop = True
    assert router.unsettled() == "the worker is stopping"


def test_a_part_that_is_missing_is_named_and_the_others_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "ANSWER_S", 0.3)

    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async def good(request: web.Request) -> web.Response:
        return web.json_response({"symbols": [1], "passed_on": request.headers[PASSED_ON]})

    async def busy(_request: web.Request) -> web.Response:
        return web.json_response({"error": "recovering state"}, status=503)

    async def html(_request: web.Request) -> web.Response:
        return web.Response(text="<h1>no</h1>")

    async def scenario() -> tuple[list[dict[str, Any]], list[str]]:
        application = web.Application()
        for handler in (hang, good, busy, html):
            application.router.add_get(f"/{handler.__name__}/symbols", handler)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        base = f"http://{host}:{port}"
        app = FakeApp({f"{base}/hang": [2], f"{base}/good": [3], f"{base}/busy": [4], f"{base}/html": [5]})
        app.consumer._thread._consumer.partitions_for_topic = lambda _topic: set(range(7))
        async with ClientSession() as app.http_client:
            result = await router_of(app).ask_others("/symbols")
        await runner.cleanup()
        return result

    answers, missing = asyncio.run(scenario())
    assert answers == [{"symbols": [1], "passed_on": "http://127.0.0.1:6066"}]
    unknown, hanging, recovering, broken = missing
    assert unknown.startswith("partition 6 is with another worker")
    assert re.fullmatch(r"partitions 2: worker http://\S+/hang: .* did not answer within 0 s", hanging)
    assert recovering.endswith("/busy: recovering state")
    assert re.match(r"partitions 5: worker http://\S+/html: .*JSON", broken)


# Two real workers on real Kafka.


class Web:
    """The web views of one worker."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"
        self._port = port

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """The body of a good answer."""
        status, _, body = self.get(path)
        assert status == 200, f"{path}: {status} {body}"
        return json.loads(body)

    def wait_until_ready(self, seconds: float = 60) -> list[int]:
        """Its partitions, once it says that it is ready."""
        deadline = time.monotonic() + seconds
        last = ""
        while time.monotonic() < deadline:
            assert self.process.is_running(), self.process.tail()
            try:
                status, _, last = self.get("/readyz")
            except ConnectionError:
                status = 0
            if status == 200:
                return list(json.loads(last)["partitions"])
            time.sleep(0.1)  # polling, as a load balancer does
        raise AssertionError(f"not ready: {last}\n{self.process.tail()}")


class Cluster:
    """Workers of one run that has no clock: its time stands still between two records."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.broker = stack.broker
        self.run = f"views{random.randrange(16**8):08x}"
        self._directory = directory
        self.workers: list[Web] = []
        create_topics(self.broker, self.run, partitions=PARTITIONS)

    def start(self) -> Web:
        """One more worker."""
        [port] = free_ports(1)
        name = f"worker-{len(self.workers)}"
        environment = {
            "PATH": "/usr/bin:/bin",
            "TICKLOOM_BROKER": self.broker,
            "TICKLOOM_RUN": self.run,
            "TICKLOOM_DATA": str(self._directory / name),
            "TICKLOOM_WEB_PORT": str(port),
        }
        self.workers.append(Web(Process(environment, "worker", log=self._directory / f"{name}.log"), port))
        return self.workers[-1]

    def feed(self, records: list[Record]) -> None:
        """Produce records and wait until all of them are processed."""
        produce(self.broker, self.run, records)
        wait_for_no_lag(self.broker, self.run, [worker.process for worker in self.workers])

    def expected(self) -> dict[str, Any]:
        """What the state of every symbol has to look like, from the log alone."""
        codec, instruments = Codec(), load()
        partitions = [Partition(number, instruments) for number in range(PARTITIONS)]
        for message in read(self.broker, topics.named(topics.RAW.name, self.run)):
            partition = partitions[message.partition()]
            partition.apply(codec.decode(message.value()), message.offset(), message.timestamp()[1] * 1_000_000)
        return {
            name: json.loads(msgspec.json.encode(state_view.details(symbol, partition)))
            for partition in partitions
            for name, symbol in partition.symbols.items()
        }


@pytest.fixture(scope="module")
def cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that have processed a market of five symbols."""
    found = Cluster(stack, tmp_path_factory.mktemp("views"))
    found.start().wait_until_ready()
    found.start().wait_until_ready()
    found.feed(market(11, 1_500))
    yield found
    for worker in found.workers:
        worker.process.kill()


def shown(data: dict[str, Any]) -> dict[str, Any]:
    """An answer without what says where it came from."""
    return {name: value for name, value in data.items() if name not in ("worker", "run", "incomplete")}


@pytest.mark.integration
def test_any_worker_gives_the_state_of_any_symbol(cluster: Cluster) -> None:
    expected = cluster.expected()
    assert set(expected) == set(FIVE)
    for name in FIVE:
        answers = [worker.json(f"/symbols/{name}") for worker in cluster.workers]
        assert answers[0] == answers[1]
        assert shown(answers[0]) == expected[name]
    owners = {cluster.workers[0].json(f"/symbols/{name}")["worker"] for name in FIVE}
    assert owners == {worker.address for worker in cluster.workers}  # both had some to give


@pytest.mark.integration
def test_any_worker_gives_the_lists_of_all_workers(cluster: Cluster) -> None:
    for path in ("/symbols", "/sources", "/gaps"):
        first, second = (worker.json(path) for worker in cluster.workers)
        assert shown(first) == shown(second)
        assert first["incomplete"] == second["incomplete"] == []
    symbols, sources = cluster.workers[0].json("/symbols"), cluster.workers[0].json("/sources")
    assert [row["symbol"] for row in symbols["symbols"]] == sorted(FIVE)
    assert sum(row["arrived"] for row in symbols["symbols"]) == sum(t["arrived"] for t in sources["totals"]) > 0
    placed = cluster.workers[0].json("/topology")["partitions"]
    assert placed == {worker.address: worker.json("/readyz")["partitions"] for worker in cluster.workers}
    assert sorted(number for numbers in placed.values() for number in numbers) == list(range(PARTITIONS))


@pytest.mark.integration
def test_a_request_is_passed_on_once_at_most(cluster: Cluster) -> None:
    first, second = cluster.workers
    name = next(n for n in FIVE if first.json(f"/symbols/{n}")["worker"] == second.address)
    status, headers, body = first.get(f"/symbols/{name}", **{PASSED_ON: "http://127.0.0.1:1"})
    assert (status, headers["Retry-After"]) == (503, "2")
    assert json.loads(body)["error"].endswith(f"has just moved to worker {second.address}")
    own = json.loads(first.get("/symbols", **{PASSED_ON: "http://127.0.0.1:1"})[2])["symbols"]
    assert name not in [row["symbol"] for row in own]


@pytest.mark.integration
def test_a_symbol_that_is_not_there_is_one_line_that_says_so(cluster: Cluster) -> None:
    for worker in cluster.workers:
        for path, said in (
            ("/symbols/EURUSDX", "did you mean EURUSD?"),
            ("/symbols/eurusd", "did you mean EURUSD?"),
            ("/symbols/%22%3E%0A", "/symbols lists"),
            ("/symbols/AUDUSD", "no record of AUDUSD has come yet"),
        ):
            status, headers, body = worker.get(path)
            assert status == 404
            assert headers["Content-Type"] == "application/json"
            assert body.count("\n") == 1
            assert said in json.loads(body)["error"]


@pytest.mark.integration
def test_the_workers_are_healthy_ready_and_measured(cluster: Cluster) -> None:
    arrived, processed = 0.0, 0.0
    for worker in cluster.workers:
        assert worker.json("/healthz") == {"status": "ok"}
        status, headers, body = worker.get("/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=")
        for family in text_string_to_metric_families(body):
            for sample in family.samples:
                arrived += sample.value * (sample.name == "tickloom_ticks_arrived_total")
                processed += sample.value * (sample.name == "tickloom_records_processed_total")
                assert sample.name != "tickloom_consumer_lag_records" or sample.value == 0
    assert arrived == sum(total["arrived"] for total in cluster.workers[0].json("/sources")["totals"])
    assert processed == len(read(cluster.broker, topics.named(topics.RAW.name, cluster.run)))


@pytest.mark.integration
def test_only_our_own_pages_are_served(cluster: Cluster) -> None:
    worker = cluster.workers[0]
    for path in ("/table/", "/table/symbols/EURUSD/", "/router/", "/graph/", "/assignment/", "/performance/"):
        assert worker.get(path)[0] == 404, path
    status, headers, body = worker.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert body == (ROOT / "topology" / "web" / "page.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", body)  # nothing from anywhere else


@pytest.mark.integration
def test_after_a_kill_the_survivor_answers_for_all_and_until_then_says_why_not(cluster: Cluster) -> None:
    expected = cluster.expected()
    first, second = cluster.workers
    lost = [name for name in FIVE if first.json(f"/symbols/{name}")["worker"] == second.address]
    second.process.kill()
    status, headers, body = first.get(f"/symbols/{lost[0]}")
    assert (status, headers["Retry-After"]) == (503, "2")
    assert json.loads(body)["error"].startswith(f"worker {second.address} does not answer")
    listed = first.json("/symbols")
    assert lost[0] not in [row["symbol"] for row in listed["symbols"]]
    assert f"worker {second.address}" in " ".join(listed["incomplete"])
    waiting, deadline = set(FIVE), time.monotonic() + 60
    while waiting:  # never a wrong answer on the way
        assert time.monotonic() < deadline, f"{waiting}: {body}\n{first.process.tail()}"
        for name in sorted(waiting):
            status, _, body = first.get(f"/symbols/{name}")
            assert status in (200, 503)
            if status == 503:
                assert json.loads(body)["error"]
            else:
                # no record has come since: this is the state as recovered
                assert shown(json.loads(body)) == expected[name]
                ready, _, said = first.get("/readyz")
                if ready == 200 and json.loads(said)["partitions"] == list(range(PARTITIONS)):
                    waiting.discard(name)
        time.sleep(0.1)  # polling, as a client that was told to retry
    assert first.json("/symbols")["incomplete"] == []
