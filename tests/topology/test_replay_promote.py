"""`tickloom replay promote` and `drop` on real servers: killed half way, resumed, read again, removed."""

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from deploy.local import Stack
from schemas import flags, topics
from schemas.codec import Codec
from schemas.instrument import load
from schemas.record import Candle, Gap, replace
from tests.market import market, moment
from tests.topology.processes import last_by_key, read
from tests.topology.replaying import Base, tighter
from topology import admin, config
from topology.replay import commands, promote
from topology.replay.outputs import PROMOTED_HEADER
from topology.storage import database

pytestmark = pytest.mark.integration

CODEC = Codec()
INSTRUMENTS = load()
RUN = "replay-stricter"
KINDS = ("--topic", "candle", "--topic", "gap", "--topic", "rejected")
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO candles%'"


@pytest.fixture(scope="module")
def base(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A live system, and a replay of it by stricter rules."""
    made = Base(stack, "promoted-market", tmp_path_factory.mktemp("base"), market(12, 4_000))
    rules = tighter(made.directory / "stricter.yaml", 1)
    code, output = made.replay("--run", "stricter", "--config", rules)
    assert code == 0, output
    return made


def test_what_live_revises_while_the_question_stands_is_left_alone(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Base(stack, "asked-market", tmp_path, market(12, 1_000))
    code, output = base.replay("--run", "asked", "--config", tighter(tmp_path / "stricter.yaml", 1))
    assert code == 0, output
    _, before = base.compare("replay-asked", "--topic", "candle")
    name = f"{base.run}.{topics.CANDLE.name}"
    revised: list[bytes] = []

    def confirm(_question: str) -> bool:
        """A late tick has come for a minute that differs: the live system says more of it."""
        [record] = [each for each in before["first"] if each["what"] == "changed"][:1]
        newest = {message.key(): message for message in read(stack.broker, name)}
        source, start = record["record"].split()
        at = moment(start)
        message = newest[f"{record['symbol']}|{source}|{at}".encode()]
        candle = CODEC.decode(message.value())
        assert isinstance(candle, Candle)
        producer = Producer({"bootstrap.servers": stack.broker})
        value = CODEC.encode(replace(candle, revision=candle.revision + 1, ticks=candle.ticks + 1))
        headers: list[Any] = [(topics.OFFSET_HEADER, b"1000000")]  # behind the range
        producer.produce(name, value, message.key(), message.partition(), headers=headers)
        assert producer.flush(30) == 0
        revised.extend([message.key(), value])
        return True

    assert commands.promote(config.load(base.environment), "asked", False, confirm) == 0
    said = capsys.readouterr().out
    assert "left alone: 1 (the live system has revised" in said
    newest = {message.key(): message.value() for message in read(stack.broker, name)}
    assert newest[revised[0]] == revised[1]
    promoted = sum(
        message.value() is not None and PROMOTED_HEADER in dict(message.headers())
        for message in read(stack.broker, name)
    )
    with database.connect(stack.database) as connection:
        query = (
            "SELECT sum((counts -> %s ->> 'written')::int) FROM promoted_symbols NATURAL JOIN promotions "
            "WHERE base = %s"
        )
        assert connection.execute(query, [topics.CANDLE.name, base.run]).fetchone() == (promoted,)
    assert promoted > 0


def topic_rows(base: Base) -> dict[str, list[tuple[object, ...]]]:
    """The candles and gaps that the live topics come down to, as rows."""
    found: dict[str, list[tuple[object, ...]]] = {"candles": [], "gaps": []}
    for topic in (topics.CANDLE, topics.GAP):
        pairs = [(message.key(), message.value()) for message in read(base.stack.broker, f"{base.run}.{topic.name}")]
        for value in last_by_key(pairs).values():
            record = CODEC.decode(value) if value is not None else None
            if isinstance(record, Candle):
                row = (record.start, record.revision, record.flags, record.ticks, record.mid_close)
                found["candles"].append((record.symbol, record.source, *row))
            if isinstance(record, Gap):
                row = (record.start, record.end or None, record.cause, record.status)
                found["gaps"].append((record.symbol, record.source, *row))
    return {table: sorted(rows, key=repr) for table, rows in found.items()}


def table_rows(base: Base) -> dict[str, list[tuple[object, ...]]]:
    """The candles and gaps in the database, mids as mantissas again."""
    with database.connect(base.stack.database) as connection:
        candles = connection.execute(
            "SELECT symbol, source, (extract(epoch FROM start) * 1000000000)::bigint, revision, flags, ticks, "
            "mid_close FROM candles WHERE run = %s",
            [base.run],
        ).fetchall()
        gaps = connection.execute(
            "SELECT symbol, source, start_ns, until_ns, cause, status FROM gaps WHERE run = %s", [base.run]
        ).fetchall()
    scaled = [
        (*row[:-1], int((row[-1] or 0) * 10 ** (INSTRUMENTS[row[0]].price_scale + 1))) for row in candles
    ]  # exact: numeric times an integer
    return {"candles": sorted(scaled, key=repr), "gaps": sorted(gaps, key=repr)}


def test_a_promotion_killed_between_topics_and_tables_is_resumed_and_stands(base: Base) -> None:
    before = table_rows(base)
    assert before == topic_rows(base)
    _, found = base.compare(RUN, *KINDS)
    assert found["differences"] > 0
    kill_in_the_middle(base)
    with database.connect(base.stack.database) as connection:
        done, left = connection.execute(
            "SELECT count(*) FILTER (WHERE done_at IS NOT NULL), count(*) FILTER (WHERE done_at IS NULL) "
            "FROM promoted_symbols NATURAL JOIN promotions WHERE base = %s",
            [base.run],
        ).fetchone()
    assert (done, left) == (2, 3)  # BTCUSDT, EURUSD; not GBPUSD, whose records were written
    written = read(base.stack.broker, f"{base.run}.{topics.CANDLE.name}")
    assert {m.key().partition(b"|")[0] for m in written if PROMOTED_HEADER in dict(m.headers())} == {
        *(b"BTCUSDT", b"EURUSD", b"GBPUSD")
    }
    code, output = base.replay("drop", RUN, "--yes")
    assert (code, "interrupted" in output) == (1, True)

    code, output = base.replay("promote", RUN, "--yes")
    assert (code, "going on with promotion" in output) == (0, True), output
    _, found = base.compare(RUN, *KINDS)
    left_over = Counter({what: n for each in found["topics"] for what, n in each["differences"].items()})
    assert set(left_over) <= {"only live", "newly accepted"}  # nothing is deleted unasked
    assert table_rows(base) == topic_rows(base) != before

    code, output = base.replay("promote", RUN, "--yes", "--delete-missing")
    assert code == 0, output
    code, found = base.compare(RUN, *KINDS)
    assert (code, found["differences"]) == (0, 0), found["first"]
    assert table_rows(base) == topic_rows(base)
    assert any(row[4] & flags.PROMOTED for row in table_rows(base)["candles"])


def kill_in_the_middle(base: Base) -> None:
    """SIGKILL a promotion that has written the records of its third symbol, and waits for the rows, which we hold."""
    with psycopg.connect(base.stack.database) as holding, database.connect(base.stack.database) as looking:
        holding.execute("SELECT 1 FROM candles WHERE run = %s AND symbol = 'GBPUSD' FOR UPDATE", [base.run])
        process = base.start("promote", RUN, "--yes")
        deadline = time.monotonic() + 60
        while looking.execute(BLOCKED).fetchone() == (0,):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 30
        holding.rollback()
        while looking.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() != (0,):
            assert time.monotonic() < deadline  # until the server has noticed that its client is gone
            time.sleep(0.05)


def test_interrupted_it_leaves_no_transaction_open(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that read what is committed would wait for its end, the live sink too."""
    name = f"{base.run}.{topics.GAP.name}"

    def interrupted(producer: Producer, *_: object) -> None:
        producer.produce(name, b"undone", b"key", 0)
        producer.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(promote, "_produce", interrupted)
    producer = promote.transactional({"bootstrap.servers": base.stack.broker}, base.run)
    change = promote.Change("EURUSD", topics.GAP.name, 0, b"key", b"undone", 0)
    with pytest.raises(KeyboardInterrupt):
        promote._write(producer, SimpleNamespace(run=RUN, base=base.run), [change])  # type: ignore[arg-type]
    client = admin.connect(base.stack.broker)
    limit = time.monotonic() + 5
    while admin.offsets(client, [name], admin.LATEST, admin.COMMITTED) != admin.offsets(client, [name], admin.LATEST):
        assert time.monotonic() < limit
        time.sleep(0.05)  # Kafka writes the markers after its answer


def test_no_sink_and_no_reading_again_undoes_it(base: Base) -> None:
    """It must have run: behind the promotion, from the beginning, and into empty tables."""
    expected = topic_rows(base)
    base.catch_up()
    assert table_rows(base) == expected
    with database.connect(base.stack.database) as connection:
        connection.execute("DELETE FROM stream_offsets WHERE run = %s", [base.run])
    base.catch_up()
    assert table_rows(base) == expected
    with database.connect(base.stack.database) as connection:
        for table in ("stream_offsets", "candles", "gaps"):
            connection.execute(f"DELETE FROM {table} WHERE run = %s", [base.run])
    base.catch_up()
    assert table_rows(base) == expected
    with database.connect(base.stack.database) as connection:
        assert connection.execute("SELECT count(*) FROM dead_letter WHERE run = %s", [base.run]).fetchone() == (0,)


def test_the_audit_says_who_when_what_and_by_which_rules(base: Base) -> None:
    with database.connect(base.stack.database) as connection:
        first, second = connection.execute(
            "SELECT replay, promoted_by, stretches, rules_version, delete_missing, finished_at > started_at, promotion "
            "FROM promotions WHERE base = %s ORDER BY promotion",
            [base.run],
        ).fetchall()
        counts = connection.execute(
            "SELECT symbol, counts FROM promoted_symbols WHERE promotion = %s ORDER BY symbol", [first[-1]]
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM promotion_changes").fetchone() == (0,)
    assert (first[0], first[4], second[4], first[5], second[5]) == (RUN, False, True, True, True)
    assert "@" in first[1]
    assert " as tickloom" in first[1]
    assert len(first[2]) == 4
    assert first[3].endswith(" tickloom-0.1.0")
    assert [symbol for symbol, _ in counts] == ["BTCUSDT", "EURUSD", "GBPUSD", "USDJPY", "XAUUSD"]
    assert all(each[topics.CANDLE.name]["written"] > 0 for _, each in counts)


def test_a_dropped_replay_leaves_nothing_and_the_live_system_alone(base: Base) -> None:
    live = table_rows(base)
    code, output = base.replay("drop", "stricter", "--yes")
    assert code == 0, output
    client = admin.connect(base.stack.broker)
    assert not [name for name in client.list_topics(timeout=10).topics if "stricter" in name]
    assert not [g.group_id for g in client.list_consumer_groups().result().valid if "stricter" in g.group_id]
    with database.connect(base.stack.database) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'run' AND table_schema = 'public'"
        ).fetchall()
        assert len(tables) > 8
        for (table,) in tables:
            query = f"SELECT count(*) FROM {table} WHERE run = %s"
            assert connection.execute(query, [RUN]).fetchone() == (0,), table
    assert not [path for path in Path(base.environment["TICKLOOM_STATE"]).rglob("*") if "stricter" in path.name]
    assert table_rows(base) == live
    code, output = base.replay("compare", "stricter")
    assert (code, "there is no replay replay-stricter" in output) == (2, True)
    code, output = base.replay("drop", "stricter", "--yes")
    assert (code, "there is no replay replay-stricter" in output) == (1, True)
