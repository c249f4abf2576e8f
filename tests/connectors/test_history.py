"""An import that is interrupted goes on and ends with the same log, record by record."""

import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from connectors.archive.file import Asked, BadRow, TickFile
from connectors.runtime import history as module
from connectors.runtime.history import History, OtherInput
from connectors.runtime.log import LogReader
from connectors.runtime.producer import RawProducer
from deploy.local import Stack
from schemas import topics
from schemas.codec import Codec
from schemas.instrument import load
from schemas.record import Clock
from topology import admin

pytestmark = pytest.mark.integration

CODEC = Codec()
INSTRUMENTS = load()
PARTITIONS = 4
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
ROOT = Path(__file__).parents[2]
ROWS = 2000  # of each of eight files
BAD = 8 * ROWS // 500

WRITE = """
import sys
from pathlib import Path
from tests.connectors.test_history import open_files, write
write(sys.argv[1], sys.argv[2], open_files(Path(sys.argv[3])))
"""


def make_files(folder: Path, rows: int = ROWS, seed: int = 7) -> Path:
    """Two brokers, two symbols, two days each; every 500th row is bad."""
    chance = random.Random(seed)
    for source in ("fxcm", "oanda"):
        for symbol in ("EURUSD", "USDJPY"):
            for day in ("20140501", "20140502"):
                times = sorted(chance.sample(range(3_600_000), rows))
                lines = [
                    f"{ms},101.3{chance.randrange(100):02},101.4" if n % 500 else "no,tick"
                    for n, ms in enumerate(times, 1)
                ]
                path = folder / source / symbol / f"{day}_quote.zip"
                path.parent.mkdir(parents=True, exist_ok=True)
                with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                    packed.writestr(f"{day}_{symbol.lower()}_tick_quote.csv", "\r\n".join(lines))
    return folder


def open_files(folder: Path) -> list[TickFile]:
    return [
        TickFile(Asked(path, path.parts[-3], path.parts[-2], timezone="UTC"), INSTRUMENTS[path.parts[-2]])
        for path in folder.rglob("*.zip")
    ]


def write(broker: str, run: str, files: list[TickFile], report=lambda: None, unreadable=()) -> History:
    producer = RawProducer(broker, run, CODEC)
    history = History(producer, broker, run, CODEC)
    try:
        history.write(files, unreadable, report=report)
    finally:
        producer.abandon()
    return history


def contents(broker: str, run: str, topic: topics.Topic = topics.RAW) -> dict[int, list]:
    """Key, value and headers of every record, by partition."""
    found: dict[int, list] = {}
    with LogReader(broker) as log:
        for message in log.whole(topics.named(topic.name, run)):
            found.setdefault(message.partition(), []).append((message.key(), message.value(), message.headers()))
    return found


@pytest.fixture
def run(stack: Stack, run_name: str) -> str:
    admin.create_topics(stack.broker, run_name, partitions=PARTITIONS)
    return run_name


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, files: Path) -> tuple[dict, dict]:
    """The log and the dead letters of an import that nothing interrupted."""
    admin.create_topics(stack.broker, "undisturbed", partitions=PARTITIONS)
    write(stack.broker, "undisturbed", open_files(files))
    dead_letters = contents(stack.broker, "undisturbed", topics.DEAD_LETTER)
    return contents(stack.broker, "undisturbed"), dead_letters


def test_the_log_is_every_tick_by_time_with_a_clock_at_each_second(stack, undisturbed, files):
    """Rebuilt here from nothing but the sorted ticks."""
    ticks = [row for file in open_files(files) for row in file.rows() if not isinstance(row, BadRow)]
    ticks.sort(key=lambda tick: (tick.ts_event, tick.symbol, tick.source))
    producer = RawProducer(stack.broker, "undisturbed", CODEC)
    ours = {producer.partition_of("EURUSD"), producer.partition_of("USDJPY")}
    expected: dict[int, list] = {number: [] for number in range(PARTITIONS)}
    second = 0
    for tick in ticks:
        if tick.ts_event // SECOND > second:
            second = tick.ts_event // SECOND
            for number in ours:
                expected[number].append((topics.CLOCK_KEY, CODEC.encode(Clock(second * SECOND)), None))
        expected[producer.partition_of(tick.symbol)].append((tick.symbol.encode(), CODEC.encode(tick), None))
    end = (ticks[-1].ts_event // MINUTE + 2) * MINUTE + 10 * SECOND
    for number in range(PARTITIONS):
        expected[number].append((topics.CLOCK_KEY, CODEC.encode(Clock(end)), None))
    assert len(ticks) == 8 * ROWS - BAD
    assert undisturbed[0] == expected


def test_every_bad_row_is_a_dead_letter_with_its_place(undisturbed):
    letters = [letter for partition in undisturbed[1].values() for letter in partition]
    assert len(letters) == BAD
    for key, value, headers in letters:
        named = {name: text.decode() for name, text in headers}
        assert (named["reason"], value, named["error"][:8]) == ("BAD_ROW", b"no,tick", "2 fields")
        assert int(named["line"]) % 500 == 0
        assert key.decode() in named["file"]
        assert named["source"] in named["file"]


def test_an_import_done_twice_writes_nothing_the_second_time(stack, run, files, undisturbed):
    first = write(stack.broker, run, open_files(files))
    again = write(stack.broker, run, open_files(files))
    assert (contents(stack.broker, run), contents(stack.broker, run, topics.DEAD_LETTER)) == undisturbed
    assert (first.resumed, again.written) == (0, 0)
    assert again.ticks == first.ticks
    assert again.bad == first.bad


class Stop(Exception):
    """The import ends here."""


def test_an_import_that_is_broken_off_again_and_again_ends_with_the_same_log(stack, run, files, undisturbed):
    """Each time after some more rows, without flushing: what was not sent is lost."""
    pieces = iter(range(2, 1000, 3))  # thousands of rows until the next stop

    def report() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop

    stops = 0
    while True:
        left = next(pieces)
        try:
            history = write(stack.broker, run, open_files(files), report)
        except Stop:
            stops += 1
            continue
        break
    assert stops >= 3
    assert history.resumed > 0
    assert (contents(stack.broker, run), contents(stack.broker, run, topics.DEAD_LETTER)) == undisturbed


def test_an_import_killed_midway_and_started_again_ends_with_the_same_log(stack, run, files, undisturbed):
    command = [sys.executable, "-c", WRITE, stack.broker, run, str(files)]
    everything = sum(map(len, undisturbed[0].values()))
    killed = 0
    for share in (0.2, 0.5, 0.8):
        process = subprocess.Popen(command, cwd=ROOT)
        with LogReader(stack.broker) as log:
            while process.poll() is None and sum(end for _, end in log.bounds(f"{run}.market.raw").values()) < (
                share * everything
            ):
                time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    there = sum(map(len, contents(stack.broker, run).values()))
    assert killed >= 2
    assert there > 0
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == 0
    assert (contents(stack.broker, run), contents(stack.broker, run, topics.DEAD_LETTER)) == undisturbed


@pytest.mark.parametrize("seed", [7, 8])
def test_a_run_that_holds_other_ticks_is_not_written_to(stack, run, files, tmp_path, seed):
    """Other ticks; then the same ticks but fewer of them."""
    write(stack.broker, run, open_files(files))
    before = contents(stack.broker, run)
    other = open_files(files)[:3] if seed == 7 else open_files(make_files(tmp_path, seed=seed))
    with pytest.raises(OtherInput, match=rf"run {run} holds other input .*: choose another --run"):
        write(stack.broker, run, other)
    after = contents(stack.broker, run)
    assert {number: records[: len(before[number])] for number, records in after.items()} == before


def test_two_writers_at_once_are_noticed(stack, run, files):
    """The other's record is in the way of ours: the log is no longer what these files give."""
    producer = RawProducer(stack.broker, run, CODEC)
    history = History(producer, stack.broker, run, CODEC)
    intruder = RawProducer(stack.broker, run, CODEC)
    intruder.clock(0, 1)
    intruder.flush()
    with pytest.raises(OtherInput, match="somebody else wrote into run"):
        history.write(open_files(files))


def test_a_file_that_could_not_be_read_is_a_dead_letter_too(stack, run, files, tmp_path):
    whole = BadRow(Asked(tmp_path / "torn.zip", "fxcm", "EURUSD"), 0, "", "torn")
    for _ in range(2):
        history = write(stack.broker, run, open_files(files), unreadable=[whole])
    assert history.unreadable == [whole]
    letters = [letter for each in contents(stack.broker, run, topics.DEAD_LETTER).values() for letter in each]
    assert [dict(headers)["line"] for _, _, headers in letters].count(b"0") == 1
    assert len(letters) == BAD + 1


def test_no_more_than_the_end_of_a_log_is_compared(stack, run, files, monkeypatch):
    """The tail alone already tells another input; reading all of it would take as long as importing it."""
    monkeypatch.setattr(module, "COMPARED", 3)
    write(stack.broker, run, open_files(files))
    producer = RawProducer(stack.broker, run, CODEC)
    history = History(producer, stack.broker, run, CODEC)
    assert len(history._tail) <= 3 * PARTITIONS
