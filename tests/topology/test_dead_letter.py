"""Dead letters: read as far as they go, sent back once whatever is killed, never for ever, and purged."""

import json
import random
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from connectors.runtime.producer import partition_of
from schemas import flags, topics
from schemas.codec import Codec, to_dict
from schemas.record import Best, Rejected
from schemas.topics import BEST, DEAD_LETTER, RAW, TICK, named
from tests.market import NOON, SECOND, quote
from tests.topology.processes import PARTITIONS, ROOT, Process, lag, read, wait_for_no_lag
from topology import admin, cli, config
from topology.dead_letters import commands, decode, letter, topic
from topology.storage import database

CODEC = Codec()
KAFKA_LIMIT = 1_048_588

# The form of a letter.


def record(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], name: str = "market.raw") -> Any:
    return SimpleNamespace(topic=name, partition=3, offset=17, key=key, value=value, headers=tuple(headers))


def reread(written: Any) -> letter.Letter:
    return letter.read((3, 99), 5, *written)


@given(
    st.none() | st.binary(max_size=50),
    st.none() | st.binary(max_size=50),
    st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=9)), max_size=4),
    st.text(max_size=50),
)
def test_a_letter_keeps_all_of_a_record(key: Any, value: Any, headers: Any, error: str) -> None:
    found = reread(letter.write(record(key, value, headers), "FAILED", error))
    assert (found.key, found.value, found.headers) == (key, value, headers)
    assert (found.topic, found.partition, found.offset, found.reason) == ("market.raw", 3, 17, "FAILED")
    assert found.cut == 0
    assert found.error == error.encode(errors="replace").decode()


@pytest.mark.parametrize(
    "sizes", [(2_000_000, 5, 5), (5, 2_000_000, 5), (5, 5, 2_000_000), (400_000, 400_000, 400_000)]
)
def test_a_letter_always_fits_into_kafka_and_says_what_was_cut(sizes: tuple[int, int, int]) -> None:
    key, value, header = (b"x" * size for size in sizes)
    written = letter.write(record(key, value, [("own", header)]), "KEY_MISMATCH", "\N{SNOWMAN}" * 900_000)
    size = sum(len(part or b"") for part in written[:2]) + sum(len(n) + len(v) for n, v in written[2])
    assert size < KAFKA_LIMIT - 20_000
    found = reread(written)
    assert found.cut >= sum(sizes) - len(found.key or b"") - len(found.value or b"")


def test_a_record_that_was_sent_back_says_how_often() -> None:
    first = reread(letter.write(record(b"k", b"v", [("own", b"1")]), "FAILED", ""))
    assert first.retries == 0
    again = reread(letter.write(record(b"k", b"v", letter.sent_back(first)), "FAILED", ""))
    assert again.retries == 1
    assert letter.sent_back(again) == [("own", b"1"), ("retry", b"2")]
    forged = reread(letter.write(record(b"k", b"v", [("retry", b"many")]), "FAILED", ""))
    assert forged.retries == 0


def test_what_the_sink_was_given_again_still_stands_where_it_stood() -> None:
    first = reread(letter.write(record(b"k", b"v", [("offset", b"8")], "market.data.tick"), "UNSTORABLE", ""))
    receipt = record(b"k", b"v", letter.receipt(first), DEAD_LETTER.name)
    assert letter.retried(receipt.headers) == 99
    assert letter.redelivered(receipt.headers) == ("market.data.tick", [("offset", b"8"), ("retry", b"1")])
    again = reread(letter.write(receipt, "UNSTORABLE", ""))
    assert (again.topic, again.partition, again.offset, again.retries) == ("market.data.tick", 3, 17, 1)
    assert letter.retried(letter.write(receipt, "UNSTORABLE", "")[2]) is None


@given(st.binary(max_size=40), st.lists(st.tuples(st.text(max_size=9), st.none() | st.binary(max_size=9)), max_size=6))
def test_whatever_stands_in_the_topic_can_be_read(value: bytes, headers: Any) -> None:
    found = letter.read((0, 0), 0, None, value, headers)
    assert (found.symbol, found.value) == ("", value)


# Reading bytes as far as they go.

WHOLE = Rejected(quote(id="äx", seq=-7), "SPIKE", 1, 2**62, -3)


def flat(values: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        inner = value[1] if isinstance(value, tuple) else value
        found += flat(inner, f"{path}{name}.") if isinstance(inner, dict) else [(path + name, inner)]
    return found


@pytest.mark.parametrize("whole", [quote(id="äx"), WHOLE], ids=lambda each: type(each).__name__)
def test_cut_anywhere_the_fields_before_the_cut_are_read(whole: Any) -> None:
    value = CODEC.encode(whole)
    expected = flat(to_dict(whole))
    readings = [decode.read(value[:size]) for size in range(10, len(value) + 1)]
    for reading in readings:
        assert [*reading.fields.items()] == expected[: len(reading.fields)]
        assert reading.schema == type(whole).__name__
        assert bool(reading.error) == (len(reading.fields) < len(expected))
    assert all(len(a.fields) <= len(b.fields) for a, b in pairwise(readings))
    assert readings[-1].at == len(value)


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"\xc3\x01", CODEC.encode(quote())[:10], CODEC.encode(WHOLE)[:10]])
)
def test_no_bytes_make_it_fail(value: bytes, start: bytes) -> None:
    reading = decode.read(start + value)
    assert 0 <= reading.at <= len(start + value)
    assert bool(decode.dump(start + value, reading.at)) == bool(start + value)


def test_an_unknown_schema_and_bytes_behind_a_record_are_said() -> None:
    assert decode.read(b"\xc3\x01abcdefgh").error == "no schema with this fingerprint is known here"
    assert "fingerprint 6162636465666768" in decode.read(b"\xc3\x01abcdefgh").framing
    assert decode.read(CODEC.encode(quote()) + b"xy").error == "2 bytes are left over behind the record"
    assert decode.read(None).error == "a tombstone: it has no bytes"
    assert "SCHEMA_REGISTRY_URL" in decode.read(b"\0\0\0\0\7rest").error


@pytest.mark.parametrize("error", [LookupError("Schema not found"), ConnectionError("start it")])
def test_a_schema_that_the_registry_does_not_give_is_said(error: Exception) -> None:
    def schema_of(_number: int) -> str:
        raise error

    assert decode.read(b"\0\0\0\0\7rest", schema_of).error == f"the registry's schema: {error}"
    assert decode.read(b"\0\0\0\0\7\4ab", lambda _number: '"string"').error == ""


def test_a_dump_marks_the_place() -> None:
    assert decode.dump(b"ABCD", 2) == ["00000000  41 42 43 44" + " " * 37 + " ABCD", " " * 16 + "^^"]
    assert decode.dump(b"x" * 600)[-1] == "… and 88 bytes more"


# What is typed.


def test_the_newest_of_the_times_counts_to_the_microsecond() -> None:
    since = datetime(2026, 3, 4, 12, tzinfo=UTC)
    assert commands.where(since=since).since == NOON
    pairs = ["since=2026-03-04T12:00:00.250001", "since=2026-03-04T12:00:00.5+01:00"]
    assert commands.where(pairs=pairs, since=since).since == NOON + 250_001_000
    for wrong in (["list", "--since", "soon"], ["purge", "--where", "since=soon"]):
        result = CliRunner().invoke(cli.main, ["dead-letter", *wrong], env={"TICKLOOM_BROKER": "127.0.0.1:1"})
        assert result.exit_code == 2
        assert "'soon' is no time as in 2024-01-05" in result.output


# On a real Kafka.


@pytest.fixture
def settings(environment: dict[str, str], run: str) -> config.Settings:
    return config.load({name: value for name, value in environment.items() if name.startswith("TICKLOOM_")})


@pytest.fixture
def tickloom(environment: dict[str, str], run: str) -> Callable[..., Result]:
    """Run `tickloom dead-letter …`."""

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(cli.main, ["dead-letter", *arguments], env=environment, prog_name="tickloom")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def listed(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.output)["letters"]
    return found


def write(settings: config.Settings, *letters: Any, partition: int = 0) -> None:
    """Put letters into the topic as a worker does."""
    producer = Producer({"bootstrap.servers": settings.broker})
    for key, value, headers in letters:
        producer.produce(named(DEAD_LETTER.name, settings.run), value, key, partition, headers=headers)
    assert producer.flush(30) == 0


def of_raw(
    settings: config.Settings, value: bytes, reason: str = "FAILED", key: bytes = b"EURUSD", retry: int = 0
) -> Any:
    headers = [("retry", b"%d" % retry)] if retry else []
    failed = record(key, value, headers, named(RAW.name, settings.run))
    failed.partition = 1
    return letter.write(failed, reason, "so it is")


def raw(settings: config.Settings) -> list[Any]:
    return read(settings.broker, named(RAW.name, settings.run))


@pytest.mark.integration
def test_letters_are_listed_by_what_they_are(settings: config.Settings, tickloom: Callable[..., Result]) -> None:
    write(settings, of_raw(settings, b"a"), of_raw(settings, b"b", flags.UNKNOWN_SYMBOL, b"XXXYYY"))
    write(settings, (b"k", b"1;2", [("reason", b"BAD_ROW"), ("error", b"no price"), ("file", b"a.csv")]), partition=2)
    text = tickloom("list").output
    assert f"{settings.run}.market.raw 1:17" in text
    assert "1 UNKNOWN_SYMBOL: not in instruments.yaml" in text
    answer = json.loads(tickloom("list", "--json").output)
    assert answer["reasons"] == {"FAILED": 1, "UNKNOWN_SYMBOL": 1, "BAD_ROW": 1}
    assert {each["id"] for each in answer["letters"]} == {"0:0", "0:1", "2:0"}
    for filters, ids in (
        (("--reason", "FAILED"), {"0:0"}),
        (("--symbol", "XXXYYY"), {"0:1"}),
        (("--topic", "market.raw"), {"0:0", "0:1"}),
        (("--where", "topic=market.raw", "--where", "symbol=EURUSD"), {"0:0"}),
        (("--since", "2999-01-01"), set()),
        (("--where", "id=2:0"), {"2:0"}),
        (("--limit", "1"), {"2:0"}),
    ):
        assert {each["id"] for each in listed(tickloom("list", "--json", *filters))} == ids, filters
    for wrong in (("--where", "colour=red"), ("--reason", "SAD"), ("--where", "id=7")):
        result = tickloom("list", *wrong)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")


@pytest.mark.integration
def test_a_letter_is_shown_as_far_as_it_can_be_read(settings: config.Settings, tickloom: Callable[..., Result]) -> None:
    write(settings, of_raw(settings, CODEC.encode(quote(bid=77))[:-3], flags.UNDECODABLE))
    text = tickloom("show", "0:0").output
    assert "UNDECODABLE: the bytes are not a record of their schema" in text
    assert f"{settings.run}.market.raw 1:17" in text
    assert "Quote (current)" in text
    assert "bid = 77" in text
    assert "at byte" in text
    assert "c3 01" in text
    answer = json.loads(tickloom("show", "0:0", "--json").output)
    assert answer["read"]["fields"]["bid"] == 77
    assert "there is no dead letter 3:5" in tickloom("show", "3:5").output
    assert "partition:offset" in tickloom("show", "nonsense").output


@pytest.mark.integration
def test_a_letter_goes_back_once(settings: config.Settings, tickloom: Callable[..., Result]) -> None:
    write(settings, *(of_raw(settings, b"%d" % number) for number in range(5)))
    assert "2 letters would be sent back" in tickloom("retry", "0:1", "0:3", "--dry-run").output
    assert raw(settings) == []
    assert tickloom("retry", "0:1", "0:3").exit_code == 0
    assert "3 letters sent back" in tickloom("retry").output
    again = tickloom("retry")
    assert "0 letters sent back" in again.output
    assert "5 had been sent back before" in again.output
    found = raw(settings)
    assert [each.value() for each in found] == [b"1", b"3", b"0", b"2", b"4"]
    assert {(each.key(), each.partition(), dict(each.headers())["retry"]) for each in found} == {(b"EURUSD", 1, b"1")}
    assert listed(tickloom("list", "--json")) == []
    assert {each["sent_back"] for each in listed(tickloom("list", "--json", "--all"))} == {True}
    assert "sent back 0 times" not in tickloom("show", "0:0").output


@pytest.mark.integration
def test_what_can_not_go_back_is_left_with_its_reason(
    settings: config.Settings, tickloom: Callable[..., Result]
) -> None:
    elsewhere = letter.write(record(b"k", b"v", [], "customers"), "FAILED", "")
    own = record(b"k", b"v", [], named(DEAD_LETTER.name, settings.run))
    own.headers = (("topic", named(DEAD_LETTER.name, settings.run).encode()), ("partition", b"0"), ("offset", b"0"))
    gone = letter.write(record(b"k", b"v", [], named(RAW.name, settings.run)), "FAILED", "")
    gone[2][3] = ("partition", b"9")
    write(
        settings,
        (b"k", b"1;2", [("reason", b"BAD_ROW"), ("file", b"a.csv")]),
        elsewhere,
        letter.write(own, "FAILED", ""),
        gone,
        of_raw(settings, b"x" * 2_000_000),
        of_raw(settings, b"third time", retry=3),
        letter.write(record(b"k", b"v", [], named(TICK.name, settings.run)), "UNSTORABLE", ""),
        (None, None, []),
    )
    result = tickloom("retry")
    assert result.exit_code == 1
    for said in ("import it again", "customers", "no partition 9", "cut off", "sent back 3 times", "older version"):
        assert said in result.output, said
    assert raw(settings) == []
    assert tickloom("retry", "--limit", "4", "0:5").exit_code == 0
    assert [dict(each.headers())["retry"] for each in raw(settings)] == [b"4"]


DYING = """
import os, sys
from topology import config
from topology.dead_letters import topic

class Dying(topic.Producer):
    def commit_transaction(self, *_):
        assert self.flush(30) == 0
        os.kill(os.getpid(), 9)

topic.Producer = Dying
topic.retry(config.load(), lambda _: True, limit=3)
"""


@pytest.mark.integration
def test_killed_between_the_record_and_its_receipt_it_goes_back_once(
    settings: config.Settings, environment: dict[str, str], tickloom: Callable[..., Result]
) -> None:
    write(settings, of_raw(settings, b"once"))
    done = subprocess.run([sys.executable, "-c", DYING], env=environment, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert "1 letters sent back" in tickloom("retry").output
    assert "0 letters sent back" in tickloom("retry").output
    assert [each.value() for each in raw(settings)] == [b"once"]


@pytest.mark.integration
def test_many_that_retry_at_once_send_each_letter_once(
    settings: config.Settings, start: Callable[..., Process]
) -> None:
    write(settings, *(of_raw(settings, b"%d" % number) for number in range(1500)))
    for _ in range(3):
        processes = [start("dead-letter", "retry") for _ in range(2)]
        limit = time.monotonic() + 120
        while any(process.is_running() for process in processes):
            assert time.monotonic() < limit, processes[0].tail()
            time.sleep(0.05)  # polling the ends of processes
        for process in processes:
            log = process.log.read_text()
            assert "sent back" in log or "another `tickloom dead-letter retry` has begun" in log, log
    assert sorted(int(each.value()) for each in raw(settings)) == list(range(1500))


@pytest.mark.integration
def test_one_that_is_overtaken_sends_nothing(
    settings: config.Settings, tickloom: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open is looked up once the producer is the only one: whoever comes later ends it."""
    write(settings, of_raw(settings, b"once"))
    look = topic.read

    def overtaken(settings: config.Settings) -> topic.Box:
        box = look(settings)
        monkeypatch.setattr(topic, "read", look)
        assert "1 letters sent back" in tickloom("retry").output
        return box

    monkeypatch.setattr(topic, "read", overtaken)
    assert "another `tickloom dead-letter retry` has begun" in tickloom("retry").output
    assert [each.value() for each in raw(settings)] == [b"once"]


@pytest.mark.integration
def test_a_receipt_behind_the_open_transaction_of_a_worker_is_seen(
    settings: config.Settings, tickloom: Callable[..., Result]
) -> None:
    """What is committed can't be read while an earlier transaction of the partition is open."""
    write(settings, of_raw(settings, b"once"))
    worker = Producer(
        {"bootstrap.servers": settings.broker, "transactional.id": f"{settings.run}.w", "transaction.timeout.ms": 3000}
    )
    worker.init_transactions(30)
    worker.begin_transaction()
    worker.produce(named(DEAD_LETTER.name, settings.run), b"w", b"w", 0, headers=of_raw(settings, b"")[2])
    assert worker.flush(30) == 0
    assert "1 letters sent back" in tickloom("retry", "0:0").output
    assert "0 letters sent back" in tickloom("retry", "0:0").output
    assert [each.value() for each in raw(settings)] == [b"once"]


def instruments(path: Path, *names: str) -> dict[str, str]:
    """The environment of a process that knows these symbols only."""
    lines = "".join(f"  {name}: {{class: always, price_scale: 5}}\n" for name in names)
    path.write_text(f"classes:\n  always: {{calendar: always, size_scale: 0}}\ninstruments:\n{lines}")
    return {"TICKLOOM_INSTRUMENTS": str(path)}


def produce(settings: config.Settings, name: str, *records: tuple[bytes, bytes], headers: Any = ()) -> None:
    producer = Producer({"bootstrap.servers": settings.broker})
    for key, value in records:
        producer.produce(named(name, settings.run), value, key, partition_of(key, PARTITIONS), headers=list(headers))
    assert producer.flush(30) == 0


@pytest.mark.integration
def test_after_a_fix_the_worker_takes_what_it_had_refused(
    settings: config.Settings, start: Callable[..., Process], tickloom: Callable[..., Result], tmp_path: Path
) -> None:
    """An instrument was missing; rubbish and a key that lies stay what they are, each time counted."""
    before = instruments(tmp_path / "before.yaml", "EURUSD")
    after = instruments(tmp_path / "after.yaml", "EURUSD", "ABCDEF")
    stranger = CODEC.encode(quote(symbol="ABCDEF"))
    name = "".join(random.Random(1).choices(string.ascii_letters, k=700_000))  # fills a header, and can't be compressed
    lie = CODEC.encode(quote(symbol=name))
    produce(settings, RAW.name, (b"EURUSD", CODEC.encode(quote())), (b"ABCDEF", stranger), (b"EURUSD", b"rubbish"))
    produce(settings, RAW.name, (b"EURUSD", lie), (b"EURUSD", CODEC.encode(quote(at=NOON + SECOND, bid=108_999))))
    worker = start("worker", **before)
    wait_for_no_lag(settings.broker, settings.run, [worker])
    assert worker.stop() == 0
    found = listed(tickloom("list", "--json"))
    reasons = sorted(each["reason"] for each in found)
    assert reasons == [flags.KEY_MISMATCH, flags.UNKNOWN_SCHEMA, flags.UNKNOWN_SYMBOL]
    worker = start("worker", **after)
    for round_ in (1, 2, 3):
        assert tickloom("retry").exit_code == 0
        wait_for_no_lag(settings.broker, settings.run, [worker])
        left = listed(tickloom("list", "--json"))
        assert {(each["reason"], each["retries"]) for each in left} == {
            (flags.KEY_MISMATCH, round_),
            (flags.UNKNOWN_SCHEMA, round_),
        }
    last = tickloom("retry")
    assert last.exit_code == 1
    assert "0 letters sent back" in last.output
    assert last.output.count("was sent back 3 times already") == 2
    ticks = [CODEC.decode(each.value()) for each in read(settings.broker, named(TICK.name, settings.run))]
    assert sorted((each.symbol, each.bid) for each in ticks) == [
        ("ABCDEF", 109_000),
        ("EURUSD", 108_999),
        ("EURUSD", 109_000),
    ]


def wait_for_sink(settings: config.Settings, sink: Process) -> None:
    limit = time.monotonic() + 60
    names = [named(each.name, settings.run) for each in admin.SUNK]
    while left := sum(lag(settings.broker, admin.sink_id(settings.run), name) for name in names):
        assert sink.is_running(), sink.tail()
        assert time.monotonic() < limit, f"{left} records behind:\n{sink.tail()}"
        time.sleep(0.1)  # polling committed offsets: Kafka does not tell


@pytest.mark.integration
def test_what_the_sink_could_not_store_goes_to_it_again_and_to_no_topic(
    settings: config.Settings, start: Callable[..., Process], tickloom: Callable[..., Result], tmp_path: Path
) -> None:
    """An old best price must neither become the newest of its topic again, nor take a newer one's place."""
    before = instruments(tmp_path / "before.yaml", "EURUSD")
    after = instruments(tmp_path / "after.yaml", "EURUSD", "ABCDEF")
    old, new = (Best("ABCDEF", NOON, NOON, "normal", bid, 1, "a", 9, 1, "b", 50, 2) for bid in (5, 6))
    tick = quote(symbol="ABCDEF")
    produce(settings, TICK.name, (b"ABCDEF", CODEC.encode(tick)), headers=[("offset", b"7")])
    produce(settings, BEST.name, (b"ABCDEF", CODEC.encode(old)), headers=[("offset", b"7")])
    produce(settings, TICK.name, (b"ABCDEF", b"rubbish"), headers=[("offset", b"9")])
    sink = start("sink", **before)
    wait_for_sink(settings, sink)
    assert sink.stop() == 0
    found = listed(tickloom("list", "--json"))
    assert sorted(each["reason"] for each in found) == [
        flags.UNKNOWN_SCHEMA,
        flags.UNKNOWN_SYMBOL,
        flags.UNKNOWN_SYMBOL,
    ]
    produce(settings, BEST.name, (b"ABCDEF", CODEC.encode(new)), headers=[("offset", b"8")])
    sink = start("sink", **after)
    wait_for_sink(settings, sink)
    written = {name: len(read(settings.broker, named(name, settings.run))) for name in (TICK.name, BEST.name)}
    for _ in range(2):  # the second time sends back what failed once more
        assert tickloom("retry").exit_code == 0
        wait_for_sink(settings, sink)
    (left,) = listed(tickloom("list", "--json"))
    assert (left["reason"], left["retries"], left["topic"]) == (
        flags.UNKNOWN_SCHEMA, 2, named(TICK.name, settings.run)
    )  # fmt: skip
    with database.connect(settings.database) as connection:
        for table, columns, expected in (
            ("ticks", "symbol, source_offset", [("ABCDEF", 7)]),
            ("best_prices", "symbol, source_offset", [("ABCDEF", 8)]),
            ("dead_letter", "count(*), 1", [(3, 1)]),
        ):
            rows = connection.execute(f"SELECT {columns} FROM {table} WHERE run = %s", [settings.run]).fetchall()
            assert rows == expected, table
    assert {name: len(read(settings.broker, named(name, settings.run))) for name in written} == written
    assert sink.stop() == 0


@pytest.mark.integration
def test_purge_deletes_what_kafka_can_and_says_what_is_left(
    settings: config.Settings, tickloom: Callable[..., Result]
) -> None:
    write(settings, of_raw(settings, b"0"), of_raw(settings, b"1"), of_raw(settings, b"2", flags.UNKNOWN_SYMBOL))
    write(settings, of_raw(settings, b"3"))
    asked = tickloom("purge", "--reason", "FAILED")
    assert asked.exit_code == 1
    assert "Delete 2 letters" in asked.output
    assert len(listed(tickloom("list", "--json"))) == 4
    done = tickloom("purge", "--reason", "FAILED", "--yes")
    assert done.exit_code == 0
    assert "1 more stand behind one that stays" in done.output
    assert {each["id"] for each in listed(tickloom("list", "--json"))} == {"0:2", "0:3"}
    assert tickloom("retry", "0:2").exit_code == 0
    assert "2 letters deleted" in tickloom("purge", "--reason", "FAILED", "--yes").output
    assert listed(tickloom("list", "--json", "--all")) == []
    assert "0 letters deleted" in tickloom("purge", "--yes").output
    assert "0 letters sent back" in tickloom("retry").output


@pytest.mark.integration
def test_purge_leaves_what_the_sink_has_still_to_take(
    settings: config.Settings, tickloom: Callable[..., Result]
) -> None:
    stood = record(b"EURUSD", CODEC.encode(quote()), [("offset", b"1")], named(TICK.name, settings.run))
    write(settings, letter.write(stood, "UNSTORABLE", ""))
    assert tickloom("retry").exit_code == 0
    assert tickloom("purge", "--yes").exit_code == 0
    assert len(topic.read(settings).deliveries) == 1
    assert topic.read(settings).letters == []
    assert "0 letters deleted" in tickloom("purge", "--yes").output


@pytest.mark.integration
def test_purge_leaves_letters_that_the_sink_has_not_stored(
    settings: config.Settings, tickloom: Callable[..., Result]
) -> None:
    write(settings, of_raw(settings, b"0"), of_raw(settings, b"1"))
    consumer = Consumer({"bootstrap.servers": settings.broker, "group.id": admin.sink_id(settings.run)})
    consumer.commit(offsets=[TopicPartition(named(DEAD_LETTER.name, settings.run), 0, 1)], asynchronous=False)
    consumer.close()
    done = tickloom("purge", "--yes").output
    assert "1 letters deleted" in done
    assert "1 more stand behind one that stays, or wait for the sink" in done
    assert [each["id"] for each in listed(tickloom("list", "--json"))] == ["0:1"]


@pytest.mark.integration
def test_status_counts_those_that_are_open(settings: config.Settings, environment: dict[str, str]) -> None:
    def status(*arguments: str) -> str:
        return str(CliRunner().invoke(cli.main, ["status", *arguments], env=environment).output)

    write(settings, of_raw(settings, b"1"), of_raw(settings, b"2", flags.UNKNOWN_SYMBOL), of_raw(settings, b"3"))
    assert json.loads(status("--json"))["dead_letters"] == {"FAILED": 2, "UNKNOWN_SYMBOL": 1}
    topic.retry(settings, lambda each: each.id == "0:0", limit=3)
    assert json.loads(status("--json"))["dead_letters"] == {"FAILED": 1, "UNKNOWN_SYMBOL": 1}
    assert "dead letter UNKNOWN_SYMBOL  " in status()
    assert "tickloom dead-letter list" in status()


@pytest.mark.integration
def test_a_topic_that_is_not_there_is_one_line(environment: dict[str, str]) -> None:
    result = CliRunner().invoke(cli.main, ["dead-letter", "list"], env=environment, prog_name="tickloom")
    assert result.exit_code == 1
    assert "tickloom topics create" in result.output
    assert result.output.count("\n") == 1


def test_quotes_are_what_the_filters_need() -> None:
    """The symbol of a letter is the first part of its key, of outputs too."""
    key = topics.key(Best("EURUSD", 1, 1, "normal", 1, 1, "a", 1, 1, "a", 1, 1))
    assert letter.read((0, 0), 0, key, None, []).symbol == "EURUSD"
    assert letter.read((0, 0), 0, b"EURUSD|best|5", None, []).symbol == "EURUSD"
