"""`tickloom import` from files to database, on real servers: whole, interrupted, killed, and with bad files."""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import TopicPartition

from connectors.archive import manifest as listing
from connectors.archive.file import Asked, TickFile
from connectors.runtime.history import History
from connectors.runtime.log import LogReader
from connectors.runtime.producer import RawProducer
from deploy import local
from deploy.local import Stack
from schemas import topics
from schemas.codec import Codec
from schemas.instrument import ConfigError, load
from topology import admin, running
from topology.config import Settings
from topology.driver import TopologyDriver
from topology.importing import job

ROOT = Path(__file__).parents[2]
CODEC = Codec()
INSTRUMENTS = load()
SECOND = 1_000_000_000
FINAL = (topics.CANDLE, topics.STATUS, topics.GAP, topics.BEST)
TICKS = 2 * 1500


def lean_zip(path: Path, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(path.name.replace("_quote.zip", "_eurusd_tick_quote.csv"), "\r\n".join(rows))
    return path


def write_files(folder: Path) -> Path:
    """Two brokers, 25 minutes around noon; some rows are bad, some ticks duplicate, one spikes, one broker pauses."""
    for source, step in (("fxcm", 1000), ("oanda", 1000)):
        rows = []
        for n in range(1500):
            bid = 138_000 + (n * 7919) % 13 + (3000 if n == 700 and source == "fxcm" else 0)
            pause = 200_000 if source == "oanda" and n > 1000 else 0
            row = f"{43_200_000 + n * step + pause},{bid / 1e5:.5f},{(bid + 12) / 1e5:.5f}"
            rows += [row] * (2 if n % 300 == 10 else 1)
            if n % 400 == 5:
                rows.append("not,a,tick")
        lean_zip(folder / source / "20140501_quote.zip", rows)
    (folder / "manifest.yaml").write_text(
        "".join(
            f"- {{path: {source}, source: {source}, symbol: EURUSD, timezone: UTC}}\n" for source in ("fxcm", "oanda")
        )
    )
    return folder / "manifest.yaml"


def command(environment: dict[str, str], *arguments: object, **more) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "topology.cli", "import", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, env=environment, cwd=ROOT, preexec_fn=heed_ctrl_c, **pipes | more)


def heed_ctrl_c() -> None:
    """A shell starts what it puts into the background deaf to Ctrl-C, and CI may be started so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def imported(environment: dict[str, str], *arguments: object) -> tuple[int, str]:
    process = command(environment, *arguments)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def newest(broker: str, run: str, topic: topics.Topic) -> dict[bytes, bytes]:
    with LogReader(broker) as log:
        return {message.key(): message.value() for message in log.whole(topics.named(topic.name, run))}


def raw(broker: str, run: str) -> dict[int, list]:
    found: dict[int, list] = {}
    with LogReader(broker) as log:
        for message in log.whole(topics.named(topics.RAW.name, run)):
            found.setdefault(message.partition(), []).append((message.key(), message.value()))
    return found


def stored(database: str, run: str) -> dict[str, list]:
    """The rows of a run, without what differs from run to run."""
    with psycopg.connect(database) as connection:
        return {
            table: sorted(
                [
                    {column.name: value for column, value in zip(cursor.description, row, strict=True) if keep(column)}
                    for row in cursor
                ],
                key=repr,
            )
            for table in ("ticks", "candles", "gaps")
            for cursor in [connection.execute(f"SELECT * FROM {table} WHERE run = %s", [run])]  # type: ignore[arg-type]
        }


def keep(column: psycopg.Column) -> bool:
    return column.name not in ("run", "source_offset", "updated_at", "inserted_at")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def environment_of(stack: Stack, state: Path) -> dict[str, str]:
    servers = {"TICKLOOM_BROKER": stack.broker, "TICKLOOM_DATABASE": stack.database}
    return {**os.environ, **servers, "TICKLOOM_STATE": str(state)}


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, manifest: Path, tmp_path_factory) -> tuple[str, str]:
    """The name of a run that was imported in one go, and what the command said."""
    code, output = imported(environment_of(stack, tmp_path_factory.mktemp("state")), "--manifest", manifest)
    assert code == 0, output
    return re.search(r"run (import-eurusd-\w{8})", output).group(1), output


@pytest.mark.integration
def test_the_summary_accounts_for_every_tick(undisturbed):
    """Duplicates (5 a broker), a spike, bad rows (4 a broker), a gap while OANDA pauses, and one where FXCM ends."""
    _, output = undisturbed
    rows = {cells[1]: cells for line in output.splitlines() if (cells := line.split()) and cells[0] == "EURUSD"}
    assert rows["fxcm"][2:6] == ["1,505", "1,499", "6", "1"]
    assert rows["oanda"][2:6] == ["1,505", "1,500", "5", "1"]
    assert "DUPLICATE 5, SPIKE 1" in output
    assert (rows["fxcm"][6], rows["best"][2]) == ("25", "29")
    assert "and 8 bad rows" in output
    assert len(re.findall(r"4 bad rows in \S+20140501_quote.zip", output)) == 2
    assert "not accounted for" not in output


@pytest.mark.integration
def test_what_is_stored_is_what_the_topology_makes_of_the_files(stack, undisturbed):
    """Every last value of every key equals the driver's, and every candle is final."""
    run, _ = undisturbed
    expected: dict[str, dict[bytes, bytes]] = {topic.name: {} for topic in FINAL}
    with LogReader(stack.broker) as log:
        drivers = {number: TopologyDriver(INSTRUMENTS) for number in range(topics.PARTITIONS)}
        for message in log.whole(topics.named(topics.RAW.name, run)):
            append = message.timestamp()[1] * 1_000_000
            drivers[message.partition()].pipe(CODEC.decode(message.value()), append, message.offset())
    for driver in drivers.values():
        for topic in FINAL:
            expected[topic.name].update({output.key: output.value for output in driver.read(topic)})
    found = {topic.name: newest(stack.broker, run, topic) for topic in FINAL}
    assert found == expected
    candles = [CODEC.decode(value) for value in found[topics.CANDLE.name].values()]
    assert min(candle.revision for candle in candles) == 0
    rows = stored(stack.database, run)
    assert len(rows["candles"]) == len(candles) > 50
    assert len(rows["ticks"]) == 2999
    assert len(rows["gaps"]) == len(found[topics.GAP.name]) == 2


@pytest.mark.integration
def test_an_import_interrupted_then_killed_ends_with_the_same_result(stack, manifest, undisturbed, run_name, tmp_path):
    """Ctrl-C, then kill -9 of the import alone, whose worker and sink must not stay behind."""
    environment = environment_of(stack, tmp_path)
    arguments = ("--manifest", manifest, "--run", run_name)
    first = command(environment, *arguments)
    wait_for_records(stack.broker, run_name, 1000, first)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=90)
    assert (first.returncode, "the same command goes on" in output) == (130, True), output
    second = command(environment, *arguments, stdout=subprocess.DEVNULL)
    wait_for_records(stack.broker, run_name, 1500, second)
    second.kill()
    second.wait()
    code, output = imported(environment, *arguments)
    assert code == 0, output
    assert "records were there already" in output
    assert raw(stack.broker, run_name) == raw(stack.broker, undisturbed[0])
    for topic in FINAL:
        assert newest(stack.broker, run_name, topic) == newest(stack.broker, undisturbed[0], topic), topic.name
    assert stored(stack.database, run_name) == stored(stack.database, undisturbed[0])


def wait_for_records(broker: str, run: str, count: int, process: "subprocess.Popen[str]") -> None:
    limit = time.monotonic() + 90
    with LogReader(broker) as log:
        while process.poll() is None and time.monotonic() < limit:
            bounds = log.bounds(topics.named(topics.RAW.name, run))
            if sum(end for _, end in bounds.values()) >= count:
                return
    raise AssertionError("the import wrote too little")


@pytest.mark.integration
def test_a_run_of_other_files_is_refused_in_one_line(stack, manifest, undisturbed, tmp_path):
    other = lean_zip(tmp_path / "20140501_quote.zip", [f"{n * 100},1.38,1.39" for n in range(50)])
    arguments = (other, "--source", "oanda", "--symbol", "EURUSD", "--run", undisturbed[0])
    code, output = imported(environment_of(stack, tmp_path), *arguments)
    assert code == 1
    assert re.search(rf"Error: run {undisturbed[0]} holds other input .*: choose another --run$", output.strip())


@pytest.mark.integration
def test_what_kafka_has_deleted_before_an_import_went_on_is_said(stack, manifest, run_name, tmp_path):
    """Interrupted, and gone on with after more than the topic's retention."""
    admin.create_topics(stack.broker, run_name, partitions=1)
    producer = RawProducer(stack.broker, run_name, CODEC)
    files = [TickFile(each, INSTRUMENTS[each.symbol]) for each in listing.files(listing.read(manifest), INSTRUMENTS)]
    History(producer, stack.broker, run_name, CODEC).write(files)
    producer.abandon()
    client = admin.connect(stack.broker)  # has to live until it is done
    [deleted] = client.delete_records([TopicPartition(topics.named(topics.RAW.name, run_name), 0, 100)]).values()
    deleted.result(30)
    code, output = imported(environment_of(stack, tmp_path), "--manifest", manifest, "--run", run_name)
    said = (
        r"[1-9]\d* ticks are not accounted for: Kafka has deleted 100 records of market.raw since: choose another --run"
    )
    assert (code, bool(re.search(said, output))) == (1, True), output


@pytest.mark.integration
def test_what_became_a_dead_letter_is_said(stack, tmp_path):
    rows = [f"2014-05-01T12:00:0{n},1.3800{n},1.3801{n},{'x' * 300 if n == 5 else n}" for n in range(9)]
    (tmp_path / "ticks.csv").write_text("timestamp,bid,ask,id\n" + "\n".join(rows))
    arguments = (tmp_path / "ticks.csv", "--source", "mine", "--symbol", "EURUSD")
    code, output = imported(environment_of(stack, tmp_path), *arguments)
    assert (code, "1 records are not in the run: OVERSIZED" in output) == (1, True), output
    assert "report it" not in output  # it is accounted for


@pytest.mark.integration
def test_what_was_not_running_is_started_and_stopped_again(tmp_path):
    """With a file that is no zip beside a good one: exit code 1, and the good one is imported."""
    (tmp_path / "20140502_quote.zip").write_bytes(b"<html>not found</html>")
    rows = [f"2014-05-01T12:00:{n:02}.5,1.3800{n % 10},1.3801{n % 10}" for n in range(60)]
    (tmp_path / "ticks.csv").write_text("timestamp,bid,ask\n" + "\n".join(rows))
    state = tmp_path / "state"
    try:
        code, output = imported(
            {**os.environ, "TICKLOOM_STATE": str(state)}, tmp_path, "--source", "mine", "--symbol", "EURUSD"
        )
        left = local.status(state)
    finally:
        local.clean(state)
    assert code == 1, output
    assert left is None
    assert re.search(r"not read \S+20140502_quote.zip: torn or not what its name says", output)
    assert re.search(r"EURUSD +mine +60 +60 +0 +0 +1", output)
    assert "and 1 bad rows" in output


def test_the_same_input_has_the_same_name_wherever_it_lies_and_another_has_not(tmp_path):
    def name(folder: str, rows: int, zone: str = "UTC", bid: str = "1.38", rules: str = "ours") -> str:
        path = lean_zip(tmp_path / folder / "20140501_quote.zip", [f"{n},{bid},1.39" for n in range(rows)])
        file = TickFile(Asked(path, "fxcm", "EURUSD", timezone=zone), INSTRUMENTS["EURUSD"])
        return job.run_name([file], [], rules)

    assert name("a", 10) == name("b", 10)
    others = name("a", 2000), name("a", 10, "UTC-05"), name("a", 10, bid="1.37"), name("a", 10, rules="others")
    assert len({name("a", 10), *others}) == 5
    assert re.fullmatch(r"import-eurusd-[0-9a-f]{8}", name("a", 10))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([], [], [], None), "nothing to import: give paths"),
        (([Path("x")], ["fxcm"], ["EURUSD"], Path("m.yaml")), "not both"),
        (([Path("gone.zip")], ["fxcm"], ["EURUSD"], None), "gone.zip: no such file"),
        (([ROOT / "pyproject.toml"], ["fxcm"], ["EURUSD"], None), "none of the files can be read"),
    ],
)
def test_what_cannot_be_imported_is_said_before_anything_is_started(arguments, reason, monkeypatch):
    monkeypatch.setattr(local, "start", lambda *_, **__: pytest.fail("servers were started"))
    with pytest.raises(ConfigError, match=reason):
        job.run_import(Settings(), *arguments)


def test_a_wrong_time_zone_is_said_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "start", lambda *_, **__: pytest.fail("servers were started"))
    path = lean_zip(tmp_path / "20140501_quote.zip", ["0,1.38,1.39"])
    with pytest.raises(ConfigError, match="'EDT' is no time zone"):
        job.run_import(Settings(), [path], ["fxcm"], ["EURUSD"], None, timezone="EDT")


def test_only_one_import_of_a_run_is_under_way(tmp_path):
    second = running.alone(tmp_path / "lock", "may")
    expected = pytest.raises(running.RunStopped, match="another import of run may is under way")
    with running.alone(tmp_path / "lock", "may"), expected:
        second.__enter__()
    with running.alone(tmp_path / "lock", "may"):
        pass


def test_a_process_ends_with_the_import_that_started_it():
    inner = "import time; from topology import running; running.end_with({}); print('up', flush=True); time.sleep(60)"
    outer = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {inner!r}.format(os.getpid())])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = [parent.stdout.readline().strip() for _ in range(2)]
    pid = next(int(line) for line in lines if line != "up")
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == ""  # returns when the child, which holds the pipe too, has ended
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_reason_of_an_end_is_the_last_error_of_the_log():
    log = "[INFO] starting\n[..] [ERROR] no such topic: make it\nTraceback ...\n[INFO] Closing event loop\n"
    assert running.why(log) == "[..] [ERROR] no such topic: make it"
    assert running.why("one\ntwo\n\n") == "two"
    assert running.why("") == "it said nothing"
