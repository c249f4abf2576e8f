"""The tables on a real PostgreSQL: exact, repeatable, in one transaction with the offsets, and clear in trouble."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.local import Stack
from schemas import flags, instrument
from schemas.instrument import ConfigError
from schemas.record import Best, Candle, Clock, Gap, Quote, Status, Trade, fields, replace
from tests.topology.databases import new_database, parted
from topology.storage import database, tables, writer
from topology.storage.rows import Refused
from topology.storage.tables import DeadLetter, Row
from topology.storage.ticks import Encoder
from topology.storage.writer import DatabaseSetBackError, Offsets, Writer

pytestmark = pytest.mark.integration

INSTRUMENTS = instrument.load()
MINUTE = 60_000_000_000
NOON = 1_704_456_000_000_000_000  # 2024-01-05 12:00 UTC, in nanoseconds
HUGE = 10**15 - 1


@pytest.fixture(scope="module")
def dsn(stack: Stack) -> Iterator[str]:
    """A database with the schema; the tests keep apart by their runs."""
    with new_database(stack) as address:
        database.migrate(address)
        yield address


@pytest.fixture
def connection(dsn: str) -> Iterator[database.Connection]:
    with database.connect(dsn) as connection:
        yield connection


def quote(**fields: Any) -> Quote:
    given = {"symbol": "EURUSD", "source": "oanda", "ts_event": NOON, "ts_recv": NOON, "bid": 109120, "ask": 109130}
    return Quote(**{**given, **fields})


def candle(**fields: Any) -> Candle:
    return Candle(**{"symbol": "EURUSD", "source": "oanda", "start": NOON, "revision": 0, **fields})


def gap(**fields: Any) -> Gap:
    given = {"symbol": "EURUSD", "source": "oanda", "start": NOON, "end": 0, "cause": "stale", "status": "open"}
    return Gap(**{**given, **fields})


async def none_expected(refused: Refused) -> None:
    raise AssertionError(f"refused: {refused}")


def write(
    dsn: str,
    run: str,
    *batches: Sequence[tuple[Any, int]],
    offsets: Offsets | None = None,
    refuse: Callable[[Refused], Awaitable[None]] = none_expected,
) -> None:
    async def written() -> None:
        writer = Writer(dsn, run, "sink", INSTRUMENTS)
        for batch in batches:
            rows: list[Row] = [(record, offset, None) for record, offset in batch]
            await writer.write(*parted(rows, Encoder(run, INSTRUMENTS)), offsets or {}, refuse)
        await writer.close()

    asyncio.run(written())


def rows(connection: database.Connection, table: str, run: str, columns: str = "*") -> list[Any]:
    query = f"SELECT {columns} FROM {table} WHERE run = %s ORDER BY 1, 2, 3, 4"
    return connection.execute(query, [run]).fetchall()


def one(connection: database.Connection, table: str, run: str, columns: str) -> Any:
    (row,) = connection.execute(f"SELECT {columns} FROM {table} WHERE run = %s", [run]).fetchall()
    return row


# What is written is exact.


def test_the_server_notices_soon_that_we_were_cut_off(dsn: str) -> None:
    """Or what a cut connection has locked would hold up the next one for two hours."""

    async def asynchronous() -> Any:
        connection = await database.connect_async(dsn)
        found = await (await connection.execute("SHOW tcp_keepalives_idle")).fetchone()
        await connection.close()
        return found

    with database.connect(dsn) as connection:
        assert connection.execute("SHOW tcp_keepalives_idle").fetchone() == ("15",)
    assert asyncio.run(asynchronous()) == ("15",)


def test_a_quote_is_exact_to_the_last_digit_and_nanosecond(
    connection: database.Connection, dsn: str, run_name: str
) -> None:
    tick = quote(ts_event=NOON + 123_456_789, bid_size=3, ask_size=HUGE, id="a-1", seq=7, flags=flags.SNAPSHOT)
    write(dsn, run_name, [(tick, 41)])
    row = one(connection, "ticks", run_name, "bid::text, ask::text, ask_size::text, price, ts_event, ts_event_ns, id")
    time = datetime(2024, 1, 5, 12, 0, 0, 123_456, UTC)
    assert row == ("1.09120", "1.09130", str(HUGE), None, time, NOON + 123_456_789, "a-1")
    assert one(connection, "ticks", run_name, "seq, flag_names(flags), source_offset") == (7, ["SNAPSHOT"], 41)


@pytest.mark.parametrize("scales", [(0, 0), (3, 4), (5, 2), (8, 18), (12, 7)])
def test_ticks_are_the_same_whether_they_go_straight_in_or_are_staged(
    connection: database.Connection, dsn: str, run_name: str, scales: tuple[int, int]
) -> None:
    """Also numbers that no market has; as text, so that the zeros at their ends count too."""
    given = Random(sum(scales))
    scaled = {"EURUSD": msgspec.structs.replace(INSTRUMENTS["EURUSD"], price_scale=scales[0], size_scale=scales[1])}
    numbers = [0, 1, -1, 9_999, 10_000, 10_001, 2**63 - 1, -(2**63)]
    numbers += [given.randrange(-(10**digits), 10**digits) for digits in range(1, 19) for _ in range(5)]
    batch = []
    for number in range(300):
        times = {"ts_event": given.choice([NOON, -1, 999, 2 * NOON]) - given.randrange(5), "ts_recv": NOON + number}
        some = {"source": given.choice(["a", "böse"]), "id": given.choice(["", "x\ty\\"]), "seq": given.choice(numbers)}
        bid, ask, bid_size, ask_size = given.choices(numbers, k=4)
        tick: Quote | Trade = quote(**times, **some, bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size)
        if number % 3 == 0:
            tick = Trade("EURUSD", price=bid, size=ask, flags=given.randrange(2**31), **times, **some)
        batch.append((tick, number))

    async def written() -> None:
        for run, tries in ((run_name, 0), (f"{run_name}-staged", 1)):
            writer = Writer(dsn, run, "sink", scaled)
            writer._repeats = tries
            await writer.write(*parted([(*row, None) for row in batch], Encoder(run, scaled)), {}, none_expected)
            assert writer._repeats == 0  # neither of them was a vain try
            await writer.close()

    asyncio.run(written())
    columns = "source_offset, (to_jsonb(ticks) - 'run')::text, 1, 2"
    straight = rows(connection, "ticks", run_name, columns)
    assert len(straight) == len(batch)
    assert straight == rows(connection, "ticks", f"{run_name}-staged", columns)


def test_ticks_that_come_again_among_new_ones_are_stored_once(
    connection: database.Connection, dsn: str, run_name: str
) -> None:
    write(dsn, run_name, [(quote(seq=1), 1)], [(quote(seq=number), number) for number in range(4)])
    found = rows(connection, "ticks", run_name, "source_offset, seq, 1, 2")
    assert [row[:2] for row in found] == [(number, number) for number in range(4)]


def test_a_missing_side_is_null(connection: database.Connection, dsn: str, run_name: str) -> None:
    write(dsn, run_name, [(quote(bid=0, flags=flags.ONE_SIDED), 1)])
    assert one(connection, "ticks", run_name, "bid, ask") == (None, Decimal("1.0913"))


def test_a_trade_stands_among_the_ticks(connection: database.Connection, dsn: str, run_name: str) -> None:
    trade = Trade("BTCUSDT", "binance", NOON, NOON, 4_400_010, 150_000_001, "t1")
    write(dsn, run_name, [(trade, 1)])
    row = one(connection, "ticks", run_name, "price::text, size::text, bid, ask, id")
    assert row == ("44000.10", "1.50000001", None, None, "t1")


def test_every_price_of_a_candle_comes_back_as_it_was(connection: database.Connection, dsn: str, run_name: str) -> None:
    chance = Random(1)
    names = fields(Candle)[4:20]
    largest = 2**63 - 1
    given = {}
    for minute, symbol in enumerate(sorted(INSTRUMENTS) * 20):
        mantissas = [
            chance.choice((1, 10 ** chance.randrange(19), chance.randrange(1, largest), largest)) for _ in names
        ]
        made = candle(symbol=symbol, start=NOON + minute * MINUTE, **dict(zip(names, mantissas, strict=True)))
        given[symbol, made.start] = made
    write(dsn, run_name, [(made, 1) for made in given.values()])
    stored = rows(connection, "candles", run_name, f"symbol, extract(epoch FROM start)::bigint, {', '.join(names)}")
    assert len(stored) == len(given)
    for symbol, start, *values in stored:
        for name, value in zip(names, values, strict=True):
            scale = INSTRUMENTS[symbol].price_scale + name.startswith("mid_")
            expected = Decimal(getattr(given[symbol, start * 10**9], name)).scaleb(-scale)
            assert (value, value.as_tuple().exponent) == (expected, -scale), (symbol, name)


def test_a_best_price_a_gap_and_a_status(connection: database.Connection, dsn: str, run_name: str) -> None:
    best = Best("USDJPY", NOON, NOON + 999, "normal", 150_001, 10, "ib", 150_003, 20, "oanda", 1_500_020, 3)
    status = Status("USDJPY", "ib", "live", NOON, NOON, NOON, 2_000_000, 500, 2, 100, 90, 1, 4, {"SPIKE": 5, "LATE": 4})
    closed = gap(end=NOON + MINUTE, status="closed", start=NOON - 1)
    write(dsn, run_name, [(best, 1), (gap(), 2), (closed, 3), (status, 4)])
    assert one(connection, "best_prices", run_name, "bid::text, ask::text, consensus::text, state, eligible") == (
        *("150.001", "150.003", "150.0020"),
        *("normal", 3),
    )
    gaps = rows(connection, "gaps", run_name, "run, symbol, source, start_ns, until_ns, until, status")
    assert [row[3:] for row in gaps] == [
        (NOON - 1, NOON + MINUTE, datetime(2024, 1, 5, 12, 1, tzinfo=UTC), "closed"),
        (NOON, None, None, "open"),
    ]
    row = one(connection, "source_status", run_name, "spread::text, arrived, rejected, latency_ns, ts_event")
    assert row == ("0.002", 100, {"SPIKE": 5, "LATE": 4}, 2_000_000, datetime(2024, 1, 5, 12, tzinfo=UTC))


def test_no_source_has_no_price(connection: database.Connection, dsn: str, run_name: str) -> None:
    write(dsn, run_name, [(Best("EURUSD", NOON, NOON, "no_source", 0, 0, "", 0, 0, "", 0, 0), 1)])
    assert one(connection, "best_prices", run_name, "bid, ask, consensus") == (None, None, None)


@pytest.mark.parametrize("text", ["a\tb", "a\nb\r", "\\N", "back\\slash", "", "\u00e9\u4e2d", "\\."])
def test_any_text_comes_back(connection: database.Connection, dsn: str, run_name: str, text: str) -> None:
    write(dsn, run_name, [(quote(id=text), 1), (quote(id="plain"), 2)])
    assert [row[0] for row in rows(connection, "ticks", run_name, "id, source_offset, run, symbol")] == sorted(
        [text, "plain"]
    )


def test_a_dead_letter_keeps_its_bytes(connection: database.Connection, dsn: str, run_name: str) -> None:
    letter = DeadLetter("market.raw", 3, 99, "UNDECODABLE", 'no "magic"\\', b"\x00k".hex(), "-", NOON)
    write(dsn, run_name, [(letter, 0), (msgspec.structs.replace(letter, written=NOON + MINUTE), 0)])
    row = one(connection, "dead_letter", run_name, "topic, record_offset, record_key, record_value, error, written_at")
    time = datetime(2024, 1, 5, 12, 1, tzinfo=UTC)
    assert row == ("market.raw", 99, b"\x00k", None, 'no "magic"\\', time)


def test_flags_have_the_same_names_in_the_database(connection: database.Connection) -> None:
    every = sum(flags.NAMES)
    for value in (0, flags.SNAPSHOT, flags.PARTIAL | flags.BACKFILL, every):
        (found,) = connection.execute("SELECT flag_names(%s)", [value]).fetchone() or [None]
        assert found == flags.names(value)


def test_the_short_view_takes_trades_or_else_mids(connection: database.Connection, dsn: str, run_name: str) -> None:
    traded = candle(open=5, high=6, low=4, close=5, volume=9, trades=2, mid_open=77, ticks=3)
    quoted = candle(start=NOON + MINUTE, mid_open=70, mid_high=72, mid_low=69, mid_close=71, ticks=3, revision=-1)
    write(dsn, run_name, [(traded, 1), (quoted, 2)])
    found = rows(connection, "ohlcv", run_name, "start, open::text, close::text, volume, final")
    assert [row[1:] for row in found] == [("0.00005", "0.00005", 9, True), ("0.000070", "0.000071", 3, False)]


# Repeats and disorder.


def test_a_batch_again_changes_nothing(connection: database.Connection, dsn: str, run_name: str) -> None:
    """As after a crash between the commit and the ack."""
    batch = [(quote(), 1), (quote(seq=1), 2), (candle(ticks=4), 2), (gap(), 2)]
    write(dsn, run_name, batch, offsets={("t", 0): 4})
    everything = ("ticks", "candles", "gaps", "stream_offsets")
    before = [rows(connection, table, run_name, "xmin::text, *") for table in everything]
    write(dsn, run_name, batch, offsets={("t", 0): 4})
    assert [rows(connection, table, run_name, "xmin::text, *") for table in everything] == before


@pytest.mark.parametrize("together", [True, False])
def test_an_older_row_never_replaces_a_newer(
    connection: database.Connection, dsn: str, run_name: str, together: bool
) -> None:
    newer, older = (gap(status="closed", end=NOON + 1), 9), (gap(), 8)
    write(dsn, run_name, *([[newer, older]] if together else [[newer], [older]]))
    assert one(connection, "gaps", run_name, "status, source_offset") == ("closed", 9)


def test_of_two_rows_of_one_input_the_later_stays(connection: database.Connection, dsn: str, run_name: str) -> None:
    write(dsn, run_name, [(gap(), 8), (gap(status="closed", end=NOON + 1), 8)])
    write(dsn, run_name, [(gap(status="repaired", end=NOON + 1), 8)])
    assert one(connection, "gaps", run_name, "status") == ("repaired",)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((0, flags.PARTIAL, 1), (-1, 0, 9)),  # final, though partial, beats provisional
        ((0, 0, 1), (3, flags.PARTIAL, 9)),  # complete beats partial
        ((-1, flags.PARTIAL, 9), (-1, 0, 8)),  # while provisional the later, whatever its coverage
        ((2, 0, 1), (1, 0, 9)),  # the higher revision
        ((1, 0, 9), (1, flags.BACKFILL, 8)),  # the later
    ],
)
def test_the_better_candle_stays(
    connection: database.Connection,
    dsn: str,
    run_name: str,
    better: tuple[int, int, int],
    worse: tuple[int, int, int],
    together: bool,
    swapped: bool,
) -> None:
    pair = [(candle(revision=revision, flags=marks), offset) for revision, marks, offset in (better, worse)]
    if swapped:
        pair.reverse()
    write(dsn, run_name, *([pair] if together else [[row] for row in pair]))
    assert one(connection, "candles", run_name, "revision, flags, source_offset") == better


CANDLES = st.builds(
    lambda minute, revision, marks, ticks, offset: (
        candle(start=NOON + minute * MINUTE, revision=revision, flags=marks, ticks=ticks),
        offset,
    ),
    st.integers(0, 1),
    st.integers(-1, 2),
    st.sampled_from([0, flags.PARTIAL]),
    st.integers(0, 9),
    st.integers(0, 5),
)


@given(st.lists(CANDLES, min_size=1, max_size=10), st.integers(1, 10))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_rows_fall_into_batches_makes_no_difference(
    connection: database.Connection, dsn: str, given: list[tuple[Candle, int]], size: int
) -> None:
    one_by_one, in_batches = uuid4().hex, uuid4().hex
    write(dsn, one_by_one, *([row] for row in given))
    write(dsn, in_batches, *(given[at : at + size] for at in range(0, len(given), size)))
    columns = "start, revision, flags, ticks, source_offset"
    assert rows(connection, "candles", in_batches, columns) == rows(connection, "candles", one_by_one, columns)


def test_runs_stand_beside_each_other(connection: database.Connection, dsn: str, run_name: str) -> None:
    write(dsn, run_name, [(candle(ticks=1), 5)])
    write(dsn, run_name + "b", [(candle(ticks=2), 4)])
    assert one(connection, "candles", run_name, "ticks") == (1,)
    assert one(connection, "candles", run_name + "b", "ticks") == (2,)


# Offsets.


def test_offsets_are_kept_by_run_and_group_and_never_go_back(dsn: str, run_name: str) -> None:
    write(dsn, run_name, [], offsets={("t", 0): 7, ("t", 1): 3})
    write(dsn, run_name, [], offsets={("t", 0): 6})

    async def read(run: str, group: str) -> dict[tuple[str, int], int]:
        writer = Writer(dsn, run, group, INSTRUMENTS)
        found = await writer.offsets()
        await writer.close()
        return found

    assert asyncio.run(read(run_name, "sink")) == {("t", 0): 7, ("t", 1): 3}
    assert asyncio.run(read(run_name, "other")) == asyncio.run(read("", "sink")) == {}


# Rows that can't be stored.


def refusing(dsn: str, run: str, batch: list[tuple[Any, int]]) -> list[tuple[Any, str, str]]:
    taken: list[tuple[Any, str, str]] = []

    async def refuse(refused: Refused) -> None:
        with psycopg.connect(dsn) as reader:  # nothing may be committed before the dead letters are safe
            assert rows(reader, "ticks", run) == rows(reader, "stream_offsets", run) == []
        taken.extend((row[0], reason, error) for row, reason, error in refused)

    write(dsn, run, batch, offsets={("t", 0): len(batch)}, refuse=refuse)
    return taken


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (quote(source="o\0anda"), "invalid byte sequence"),
        (quote(flags=2**40), "integer out of range"),
        (quote(source="".join(uuid4().hex for _ in range(200))), "exceeds"),
    ],
)
def test_a_row_that_cannot_be_stored_is_handed_out_and_the_rest_goes_in(
    connection: database.Connection, dsn: str, run_name: str, bad: Quote, says: str
) -> None:
    batch: list[tuple[Any, int]] = [(quote(seq=number), number) for number in range(50)]
    batch[17] = (bad, 17)
    batch[31] = (replace(bad, ts_event=NOON + 1), 31)
    refused = refusing(dsn, run_name, batch)
    assert [record for record, _, _ in refused] == [bad, batch[31][0]]
    assert {reason for _, reason, _ in refused} == {flags.UNSTORABLE}
    assert all(says in error for _, _, error in refused)
    stored = {row[0] for row in rows(connection, "ticks", run_name, "source_offset, run, symbol, seq")}
    assert stored == set(range(50)) - {17, 31}
    assert one(connection, "stream_offsets", run_name, "next_offset") == (50,)


def test_a_good_row_is_not_lost_behind_a_bad_one_of_its_key(
    connection: database.Connection, dsn: str, run_name: str
) -> None:
    refused = refusing(dsn, run_name, [(candle(ticks=5), 1), (candle(revision=2**40), 2)])
    assert len(refused) == 1
    assert one(connection, "candles", run_name, "ticks") == (5,)


def test_what_belongs_in_no_table_is_handed_out(connection: database.Connection, dsn: str, run_name: str) -> None:
    refused = refusing(dsn, run_name, [(quote(symbol="XXXYYY"), 1), (Clock(NOON), 2), (quote(), 3)])
    assert [reason for _, reason, _ in refused] == [flags.UNKNOWN_SYMBOL, flags.UNEXPECTED_RECORD]
    assert one(connection, "ticks", run_name, "source_offset") == (3,)


# A database that is away.


def test_a_lost_connection_is_made_again_and_the_batch_repeated(
    connection: database.Connection, dsn: str, run_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def cut() -> None:
        writer = Writer(dsn, run_name, "sink", INSTRUMENTS)
        await writer.write([(quote(), 1, None)], [], {("t", 0): 2}, none_expected)
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
        await writer.write([(quote(seq=1), 2, None)], [], {("t", 0): 3}, none_expected)
        await writer.close()

    asyncio.run(cut())
    assert len(rows(connection, "ticks", run_name)) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "the sink waits" in caplog.messages[0]
    assert "back after" in caplog.messages[1]


def test_a_database_that_lost_what_it_had_committed_is_noticed(
    connection: database.Connection, dsn: str, run_name: str
) -> None:
    async def set_back() -> None:
        writer = Writer(dsn, run_name, "sink", INSTRUMENTS)
        await writer.write([], [], {("t", 0): 9}, none_expected)
        connection.execute("UPDATE stream_offsets SET next_offset = 4 WHERE run = %s", [run_name])
        await writer.close()
        await writer.write([], [], {("t", 0): 12}, none_expected)

    with pytest.raises(DatabaseSetBackError, match="from offset 4"):
        asyncio.run(set_back())
    assert one(connection, "stream_offsets", run_name, "next_offset") == (4,)


def test_a_database_that_is_away_is_waited_for(
    connection: database.Connection, dsn: str, run_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    host, _, rest = dsn.rpartition("@")[2].partition("/")
    away = f"postgresql://tickloom:hunter2@127.0.0.1:{port}/{rest}"

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.open_connection(*host.split(":"))
        await asyncio.gather(pipe(reader, server[1]), pipe(server[0], writer))

    async def meanwhile() -> None:
        sink = Writer(away, run_name, "sink", INSTRUMENTS)
        writing = asyncio.create_task(sink.write([(quote(), 1, None)], [], {}, none_expected))
        while not caplog.records:
            assert not writing.done()
            await asyncio.sleep(0.01)
        async with await asyncio.start_server(serve, "127.0.0.1", port):
            await writing
            await sink.close()

    asyncio.run(asyncio.wait_for(meanwhile(), 30))
    assert len(rows(connection, "ticks", run_name)) == 1
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == [
        "topology.storage.writer"
    ] * 2
    assert f"127.0.0.1:{port} (TICKLOOM_DATABASE) can't be reached" in caplog.messages[0]
    assert "hunter2" not in caplog.text


def test_a_missing_table_ends_it(stack: Stack, run_name: str) -> None:
    with new_database(stack) as empty, pytest.raises(psycopg.errors.UndefinedTable):
        write(empty, run_name, [(quote(), 1)])


def test_a_limit_of_its_configuration_is_not_waited_out() -> None:
    assert writer._is_of_the_server(psycopg.errors.DiskFull())
    assert not writer._is_of_the_server(psycopg.errors.ConfigurationLimitExceeded())  # TimescaleDB: too much compressed


# Settings that are wrong.


def refuse_password(server: socket.socket) -> None:
    """Speak PostgreSQL just so far: ask for the password, then refuse it."""
    client, _ = server.accept()
    with client:
        client.recv(1024)
        client.sendall(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
        client.recv(1024)
        fields = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "me"\0\0'
        client.sendall(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)


def test_a_wrong_password_names_the_setting_and_not_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse_password, args=[server])
        thread.start()
        address = f"postgresql://me:hunter2@127.0.0.1:{server.getsockname()[1]}/db?sslmode=disable&gssencmode=disable"
        with pytest.raises(ConfigError) as caught:
            database.connect(address)
        thread.join()
    assert 'password authentication failed for user "me"' in str(caught.value)
    assert "TICKLOOM_DATABASE" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_unknown_database_is_a_wrong_setting(stack: Stack) -> None:
    with pytest.raises(ConfigError, match=r'TICKLOOM_DATABASE.*"nowhere" does not exist'):
        database.connect(stack.database.rpartition("/")[0] + "/nowhere")


@pytest.mark.parametrize(
    "address", ["postgresql://me:hun@ter2@host/db", "postgresql://me:hun/ter2@host/db", "postgresql://me:%zz@host/db"]
)
def test_an_address_that_cannot_be_read_is_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="TICKLOOM_DATABASE is not an address") as caught:
        database.connect(address)
    assert "ter2" not in str(caught.value)


# The schema.


def steps(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name.removeprefix('s')}.sql").write_text(text)
    return tmp_path


def applied(dsn: str) -> list[str]:
    with database.connect(dsn) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM schema_migrations ORDER BY version")]


def test_migrating_twice_changes_nothing(stack: Stack) -> None:
    with new_database(stack) as dsn:
        said: list[str] = []
        database.migrate(dsn, said.append)
        first, said = said, []
        database.migrate(dsn, said.append)
        assert first[0] == "database: applied 0001_tables.sql"
        assert len(said) == 1
        assert "TimescaleDB" in said[0]
        assert "tables" in said[0]


def test_several_processes_migrate_at_once(stack: Stack) -> None:
    with new_database(stack) as dsn:
        said: list[str] = []
        threads = [threading.Thread(target=database.migrate, args=[dsn, said.append]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum("0001" in line for line in said) == 1
        assert sum("TimescaleDB" in line for line in said) == 4


def test_a_step_that_was_changed_is_refused(stack: Stack, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(database.MIGRATIONS, tmp_path / "steps"))
    with new_database(stack) as dsn:
        database.migrate(dsn, folder=folder)
        with (folder / "0001_tables.sql").open("a") as file:
            file.write("-- a remark\n")
        with pytest.raises(ConfigError, match=r"0001_tables\.sql is applied .* put the file back"):
            database.migrate(dsn, folder=folder)


def test_the_schema_of_a_newer_program_is_refused(stack: Stack, tmp_path: Path) -> None:
    folder = steps(tmp_path, s0001_a="CREATE TABLE a ()", s0002_b="CREATE TABLE b ()")
    with new_database(stack) as dsn:
        database.migrate(dsn, folder=folder)
        (folder / "0002_b.sql").unlink()
        with pytest.raises(ConfigError, match="0002_b of a newer tickloom"):
            database.migrate(dsn, folder=folder)


def test_a_step_that_fails_leaves_nothing(stack: Stack, tmp_path: Path) -> None:
    folder = steps(tmp_path, s0001_a="CREATE TABLE a ()", s0002_b="CREATE TABLE b (); SELECT 1 / 0")
    with new_database(stack) as dsn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            database.migrate(dsn, folder=folder)
        assert applied(dsn) == ["0001_a"]
        (folder / "0002_b.sql").write_text("CREATE TABLE b ()")
        database.migrate(dsn, folder=folder)
        assert applied(dsn) == ["0001_a", "0002_b"]


def test_a_step_may_ask_for_no_transaction(stack: Stack, tmp_path: Path) -> None:
    index = "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b)"
    folder = steps(tmp_path, s0001_a="CREATE TABLE a (b int)", s0002_i=index)
    with new_database(stack) as dsn:
        database.migrate(dsn, folder=folder)
        assert applied(dsn) == ["0001_a", "0002_i"]


def test_a_user_that_may_not_make_tables_is_told_the_grant(stack: Stack) -> None:
    with new_database(stack) as dsn:
        with database.connect(dsn) as owner:
            owner.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC, pg_database_owner")
        with pytest.raises(ConfigError, match='GRANT CREATE ON SCHEMA public TO "tickloom"'):
            database.migrate(dsn)


def test_a_scale_that_changed_is_refused(connection: database.Connection, run_name: str) -> None:
    database.put_instruments(connection, run_name, INSTRUMENTS)
    database.put_instruments(connection, run_name, INSTRUMENTS)
    assert len(rows(connection, "instruments", run_name)) == len(INSTRUMENTS)
    finer = {"EURUSD": msgspec.structs.replace(INSTRUMENTS["EURUSD"], price_scale=6)}
    with pytest.raises(ConfigError, match=r"EURUSD: price_scale and size_scale are 6 and 0, .* with 5 and 0"):
        database.put_instruments(connection, run_name, finer)
    found = rows(connection, "providers", run_name, "source, symbol, provider_symbol, priority")
    assert ("oanda", "EURUSD", "EUR_USD", 1) in found


def test_every_field_of_a_record_reaches_a_column() -> None:
    for load in tables.LOADS.values():
        used = " ".join(load.columns.values())
        missing = [name for name in tables.staged_types(load.record) if f"s.{name}" not in used]
        assert [name for name in missing if f's."{name}"' not in used] == []
