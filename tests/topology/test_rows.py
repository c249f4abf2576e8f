"""What the sink leaves out while it reads is what the tables would not have kept: `tables.fold` says what they keep."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import flags, instrument, topics
from schemas.codec import Codec
from schemas.record import Best, Candle, Quote, Record, Status
from topology.fetched import Fetched, fetched
from topology.storage import tables
from topology.storage.rows import Reader, newest
from topology.storage.tables import Deleted, Row

CODEC = Codec()
READER = Reader(CODEC, "", instrument.load())
SYMBOLS = st.sampled_from(["EURUSD", "GBPUSD"])
SOURCES = st.sampled_from(["a", "b", "best"])
OFFSETS = st.integers(0, 2000)
CANDLES = st.builds(
    Candle,
    symbol=SYMBOLS,
    source=SOURCES,
    start=st.sampled_from([0, 60_000_000_000]),
    revision=st.integers(-1, 2),
    ticks=st.integers(0, 5),
    flags=st.sampled_from([0, flags.PARTIAL, flags.PROMOTED]),
)
BEST = st.builds(
    lambda symbol, bid: Best(symbol, 1, 1, "normal", bid, 0, "a", bid + 1, 0, "a", bid, 2), SYMBOLS, st.integers(1, 9)
)
STATUS = st.builds(
    lambda symbol, source, arrived: Status(symbol, source, "live", 1, 1, 1, 0, 0, 0, arrived, 0, 0, 0, {}),
    *(SYMBOLS, SOURCES, st.integers(0, 9)),
)
thorough = settings(deadline=None, derandomize=True, max_examples=300)


def kept(rows: list[Row]) -> dict[Any, tuple[Record, int]]:
    """The rows that the tables keep, by table and key."""
    return {
        (load.table, load.key_of(record, offset)): (record, offset)
        for load, group in tables.fold(rows)
        for record, offset, _ in group
    }


def read(topic: topics.Topic, made: list[tuple[Any, int]]) -> list[Fetched]:
    return [
        fetched(topic.name, 0, at, 0, topics.key(record), CODEC.encode(record), [("offset", b"%d" % offset)])
        for at, (record, offset) in enumerate(made)
    ]


@thorough
@given(st.lists(st.tuples(CANDLES, OFFSETS), max_size=40))
def test_of_candles_the_tables_keep_the_same(made: list[tuple[Any, int]]) -> None:
    rows: list[Row] = [(record, offset, None) for record, offset in made]
    assert kept(newest(rows)) == kept(rows)


@thorough
@given(st.lists(st.tuples(BEST | STATUS, OFFSETS), min_size=1, max_size=40))
def test_of_what_stands_the_tables_keep_the_same(made: list[tuple[Any, int]]) -> None:
    for topic, kind in ((topics.BEST, Best), (topics.STATUS, Status)):
        of_it = [each for each in made if isinstance(each[0], kind)]
        if of_it:
            found = READER.read(read(topic, of_it))
            assert kept(found.rows) == kept([(record, offset, None) for record, offset in of_it])
            assert len(found.rows) == len(kept(found.rows))
            assert found.refused == []


def test_a_deletion_keeps_its_place_among_the_candles() -> None:
    candle = Candle("EURUSD", "a", start=0, revision=-1)
    rows: list[Row] = [(candle, 1, None), (Deleted("candles", "EURUSD", "a", 0), -1, None), (candle, 2, None)]
    assert newest(rows) == rows


def test_what_can_not_be_read_is_refused_with_its_reason_and_the_rest_is_read() -> None:
    quote, nobody = Quote("EURUSD", "a", 1, 1, 5, 6), CODEC.encode(Quote("NOBODY", "a", 1, 1, 5, 6))
    records = [
        fetched("market.data.tick", 0, 0, 0, b"EURUSD", CODEC.encode(quote), [("offset", b"7")]),
        fetched("market.data.tick", 0, 1, 0, b"EURUSD", b"?", [("offset", b"8")]),
        fetched("market.data.tick", 0, 2, 0, b"EURUSD", CODEC.encode(quote)),
        fetched("market.data.tick", 0, 3, 0, b"EURUSD", CODEC.encode(quote), [("offset", b"%d" % 2**63)]),
        fetched("market.data.tick", 0, 4, 0, b"NOBODY", nobody, [("offset", b"9")]),
    ]
    found = READER.read(records)
    assert found.ticks is not None
    assert found.ticks.rows() == [(quote, 7, records[0])]
    assert [(row[2], reason) for row, reason, _ in found.refused] == [
        (records[1], flags.UNKNOWN_SCHEMA),
        (records[2], flags.UNDECODABLE),
        (records[3], flags.UNDECODABLE),
    ]
    assert [row[1] for row in found.rows] == [9]  # which the writer refuses: the table can't have it
    assert found.size == 5
    assert found.since(1).rows == found.rows
    assert found.since(0).rows == [*found.rows, (quote, 7, records[0])]
