"""The short form of the fault suite, and tests of what it compares with."""

import ast
import contextlib
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.codec import Codec
from schemas.instrument import load
from schemas.record import Clock, Quote
from tests.faults import compare, feed, suite
from tests.faults.breakages import BREAKAGES, Breakage, BreakageError, Edit
from tests.faults.compare import Compared, Item
from tests.faults.log import Record
from tests.faults.programs import ROOT
from tests.faults.proxy import Proxy
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.servers import Servers
from tests.faults.soak import Sample, growing, kept, plot
from tests.faults.world import Plan
from topology.task import Task

SEED = 20_261_121
SHORT = [scenario for scenario in SCENARIOS if scenario.short]

A, B, C = (Item(b"EURUSD", value, b"%d" % number) for number, value in enumerate((b"a", b"b", b"c")))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers that are the suite's own: they are killed."""
    with Servers(tmp_path_factory.mktemp("faults"), lambda _: None) as started:
        yield started


@pytest.fixture(scope="module")
def instruments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The instruments of the suite."""
    path = tmp_path_factory.mktemp("instruments") / "instruments.yaml"
    feed.write_instruments(path)
    return path


@pytest.mark.integration
@pytest.mark.parametrize("scenario", SHORT, ids=[scenario.name for scenario in SHORT])
def test_nothing_is_lost_and_nothing_comes_twice(
    servers: Servers, instruments: Path, tmp_path: Path, scenario: Scenario
) -> None:
    """`make faults` in its short form: topics, state and tables are those of the undisturbed run."""
    plan = Plan(SEED, 30_000, 1_500.0, "exactly_once", True)
    said: list[str] = []
    found = suite.play(scenario, plan, servers, instruments, tmp_path / scenario.name, said.append)
    assert found.ok, "\n".join([*said, suite.summary(found)])
    assert found.faults
    assert sum(found.compared.records.values()) > 30_000


# The comparison itself.


def whats(found: list[compare.Difference]) -> list[str]:
    """Only what is wrong."""
    return [each.what for each in found]


def test_equal_sequences_do_not_differ() -> None:
    assert compare.sequences("x", [A, B, A], [A, B, A], exactly=True) == []


@pytest.mark.parametrize(
    ("got", "what"),
    [
        ([A, B], ["missing"]),
        ([A, B, C, C], ["more than once"]),
        ([A, B, C._replace(value=b"!")], ["missing", "not in the undisturbed run"]),
        ([A, B, C._replace(origin=b"7")], ["missing", "not in the undisturbed run"]),
        ([B, A, C], ["another order from record 0 on"]),
        ([], ["missing"] * 3),
    ],
)
def test_whatever_differs_in_a_sequence_is_found(got: list[Item], what: list[str]) -> None:
    assert whats(compare.sequences("x", [A, B, C], got, exactly=True)) == what


def test_repeats_are_a_difference_only_where_exactly_once_is_promised() -> None:
    assert compare.sequences("x", [A, B, C], [A, B, A, B, C], exactly=False) == []
    assert whats(compare.sequences("x", [A, B, C], [A, B, A, B, C], exactly=True)) == ["more than once"] * 2
    assert compare.sequences("x", [A, B, C], [A, C, A, B], exactly=False) != []


def test_compaction_is_no_difference_but_another_last_value_is() -> None:
    first, last, other = A, A._replace(value=b"z"), B._replace(key=b"GBPUSD")
    assert compare.latest("x", [first, other, last], [other, last], exactly=True) == []
    assert whats(compare.latest("x", [first, last], [last, first], exactly=True)) == ["last value"]
    assert whats(compare.latest("x", [last, other], [last], exactly=True)) == ["key missing"]
    assert whats(compare.latest("x", [last], [last, other], exactly=True))[0] == "unknown key"
    assert len(compare.latest("x", [first, last], [first, first, last], exactly=True)) == 1
    assert compare.latest("x", [first, last], [first, first, last], exactly=False) == []


def test_a_hole_a_repeat_and_another_order_in_what_was_fed_are_found() -> None:
    values = [b"one", b"two", b"three"]
    digest = feed.Digest()
    for value in values:
        digest.add(0, value)
    digests = digest.result()

    def raw(*made: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> list[Record]:
        return [Record("market.raw", 0, number, 0, b"k", value, headers) for number, value in enumerate(made)]

    assert compare.fed(raw(*values), 0, digests) == []
    assert compare.fed(raw(*values) + raw(b"poison", headers=((compare.INJECTED, b"1"),)), 0, digests) == []
    for wrong in (values[:2], [*values, b"three"], values[::-1], []):
        assert compare.fed(raw(*wrong), 0, digests)


def log_of(count: int, instruments: Path) -> list[Record]:
    """A log of one partition, by hand."""
    codec = Codec()
    symbol = next(iter(load(instruments)))
    made = []
    for number, (due, record) in enumerate(feed.records(1, 1_772_625_600_000_000_000, 5_000)):
        if number > count:
            break
        if isinstance(record, Clock) or record.symbol == symbol:
            key = symbol.encode() if not isinstance(record, Clock) else b"#clock"
            made.append(Record("market.raw", 0, number, due // 1_000_000, key, codec.encode(record), ()))
    return made


def test_the_undisturbed_run_does_not_depend_on_batches(instruments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(20_000, instruments)
    known = load(instruments)
    whole = compare.undisturbed(log, Task(0, known, Codec()))
    monkeypatch.setattr(compare, "BATCH", 7)
    again = compare.undisturbed(log, Task(0, known, Codec()))
    assert again[:2] == whole[:2]
    assert sorted(map(repr, again.rows)) == sorted(map(repr, whole.rows))
    assert len(whole.outputs["market.data.tick"]) > 100
    assert len(whole.rows) > 100


def test_of_many_differences_all_count_and_some_are_shown() -> None:
    compared = Compared({}, [])
    compared.add("x", 10, [compare.Difference("x", "missing")] * 100)
    compared.add("y", 10, [compare.Difference("y", "missing")])
    assert compared.number == 101
    assert len(compared.differences) == compare.EXAMPLES + 1
    assert compared.records == {"x": 10, "y": 10}


# The input.


def test_the_input_is_the_same_every_time_and_large_enough() -> None:
    once, again = feed.first(5_000, 3, 5_000), feed.first(5_000, 3, 5_000)
    assert once == again
    assert once != feed.first(5_000, 4, 5_000)
    assert len({(tick.symbol, tick.source) for tick in once}) == feed.SYMBOLS * 4


def test_a_wrong_clock_is_only_on_the_ticks_of_its_host_while_it_is_wrong() -> None:
    start = 1_772_625_600_000_000_000
    shift = feed.Shift("alfa", 1.0, 2.0, 3600.0)
    made = zip(feed.records(1, start, 1_000), feed.records(1, start, 1_000, [shift]), strict=False)
    for _, ((due, right), (_, wrong)) in zip(range(5_000), made, strict=False):
        is_wrong = isinstance(right, Quote) and right.source == "alfa" and start + 10**9 <= due < start + 2 * 10**9
        if is_wrong:
            assert wrong.ts_recv == right.ts_recv + 3_600 * 10**9
        elif isinstance(right, Quote):
            assert wrong == right


# The soak.


def test_memory_that_grows_is_told_from_memory_that_is_noisy() -> None:
    chance = random.Random(1)
    flat = [(5.0 * n, 120 + chance.uniform(-1, 1)) for n in range(360)]
    leak = [(at, value + at / 3600 * 60) for at, value in flat]
    start_up = [(at, value if n > 60 else value - 60 + n) for n, (at, value) in enumerate(flat)]
    assert abs(growing(flat)[0]) < 5
    assert growing(leak)[0] > 50
    assert abs(growing(start_up)[0]) < 5


def test_the_plot_has_a_line_for_everything() -> None:
    assert plot([sample(n) for n in range(20)]).count("<polyline") == 8


def test_live_that_falls_behind_beside_a_replay_is_told_from_live_that_was_behind_before() -> None:
    behind = [sample(n, lag=20_000 if n == 5 else 400) for n in range(10)]
    assert kept(behind, 5_000) == []
    [error] = kept([*behind, sample(10, lag=10_001, replaying=True)], 5_000)
    assert "10,001" in error


def sample(n: int, *, lag: int = 0, replaying: bool = False) -> Sample:
    memory = {"worker": 100.0 + n, "sink": 90.0}
    return Sample(n * 5.0, memory, {"worker": 30, "sink": 20}, {"worker": lag, "sink": n}, 5, 50, replaying)


# The negative controls.


@pytest.mark.parametrize("breakage", BREAKAGES, ids=[breakage.name for breakage in BREAKAGES])
def test_every_breakage_still_finds_the_code_that_it_breaks(tmp_path: Path, breakage: Breakage) -> None:
    """That the suite then fails is shown by `python -m tests.faults --controls`."""
    for edit in breakage.edits:
        (tmp_path / edit.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / edit.path, tmp_path / edit.path)
    breakage.apply(tmp_path)
    for edit in breakage.edits:
        ast.parse((tmp_path / edit.path).read_text())


def test_a_breakage_whose_code_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x = 1\nx = 1\n")
    for text in ("y = 1", "x = 1"):
        with pytest.raises(BreakageError, match="not once"):
            Breakage("it", "why", (Edit("code.py", text, ""),), "kill").apply(tmp_path)


# The proxy.


def test_the_proxy_forwards_delays_and_cuts() -> None:
    """Against a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as probe:
        listen = probe.getsockname()[1]
        probe.close()
        threading.Thread(target=_echo, args=[server], daemon=True).start()
        proxy = Proxy({listen: server.getsockname()[1]})
        client = socket.create_connection(("127.0.0.1", listen), timeout=10)
        payload = random.Random(1).randbytes(300_000)
        threading.Thread(target=client.sendall, args=[payload], daemon=True).start()
        assert b"".join(_receive(client, len(payload))) == payload
        proxy.delay(listen, 0.2)
        began = time.monotonic()
        client.sendall(b"x")
        assert list(_receive(client, 1)) == [b"x"]
        assert time.monotonic() - began >= 0.4
        assert proxy.cut(listen) == 1
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        proxy.close()


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def _receive(client: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        data = client.recv(size)
        size -= len(data)
        yield data
