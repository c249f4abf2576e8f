"""What holds of the topology whatever the market does: laws, each on markets that hypothesis makes up.

EXAMPLES=20 makes these tests try twenty times as much.
"""

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import flags, topics
from schemas.codec import Codec
from schemas.instrument import Instrument
from schemas.record import RECORDS, Clock, Quote, Record, Status, Trade
from tests import market
from tests.market import MINUTE, NOON, SECOND, SYMBOL, Act, Piped, Setup, clock, instrument, link
from tests.reference import reference
from tests.reference.compare import OUTPUTS, Outputs, outputs_of, product, symbol_of
from topology import fetched as of
from topology.driver import TopologyDriver
from topology.fetched import Fetched
from topology.task import NAME_LENGTH, RECORD_BYTES, Task, state_offset

MORE = int(os.environ.get("EXAMPLES", "1"))
ACTS = st.lists(market.ACT, min_size=1, max_size=60)


def tries(count: int) -> settings:
    """Few examples in CI, the same each time; many by hand."""
    return settings(max_examples=count * MORE, deadline=None, derandomize=MORE == 1)


def everything(driver: TopologyDriver) -> dict[str, list[Any]]:
    """Every output since the last read, with keys, bytes and offsets."""
    return {topic.name: driver.read(topic) for topic in OUTPUTS}


def values(outputs: Outputs) -> dict[tuple[str, str], list[Any]]:
    """Outputs without their offsets."""
    return {key: [record for record, _ in found] for key, found in outputs.items()}


def recv_of(piped: Piped) -> int:
    """The receive time that counts; 0 where the record has none."""
    recv = int(getattr(piped.record, "ts_recv", 0))
    return piped.append if recv > piped.append + 2 * SECOND else recv


# Order within the allowed lateness.


@st.composite
def ticks_and_delays(draw: st.DrawFn) -> list[tuple[Quote | Trade, int]]:
    """Ticks of one calm source over some minutes, and how late each arrives: less than the lateness allowed."""
    steps = draw(st.lists(st.sampled_from([1, 200_000_000, SECOND, 9 * SECOND]), min_size=2, max_size=80))
    at, ticks = NOON, []
    for number, step in enumerate(steps):
        at += step
        price = 109_000 + draw(st.integers(-5, 5))
        made = market.trade(price, at, seq=number + 1, size=number)
        if draw(st.booleans()):
            made = market.quote(price, price + 2, at, seq=number + 1)  # type: ignore[assignment]
        ticks.append((made, draw(st.integers(0, 2 * SECOND))))
    return ticks


def late_by(ticks: list[tuple[Quote | Trade, int]], share: int) -> list[Record]:
    """The ticks in the order of their arrival, ``share`` (0 or 1) of their delay included."""
    arrivals = sorted((tick.ts_event + delay * share, tick.seq, tick) for tick, delay in ticks)
    return [market.changed(tick, ts_recv=arrival) for arrival, _, tick in arrivals]


@tries(100)
@given(ticks_and_delays())
def test_shuffling_within_the_allowed_lateness_gives_the_same_final_candles(
    ticks: list[tuple[Quote | Trade, int]],
) -> None:
    rows = []
    for share in (0, 1):
        driver = TopologyDriver({SYMBOL: instrument()})
        driver.pipe(link("connected", NOON))
        for record in late_by(ticks, share):
            driver.pipe(record)
        driver.advance(ticks[-1][0].ts_event + 3 * MINUTE)
        candles = [output.record for output in driver.read(topics.CANDLE)]
        rows.append([row for row in candles if row.source == "a"])
        assert driver.read(topics.REJECTED) == []
    assert rows[0] == rows[1]
    assert {row.revision for row in rows[0]} == {0}


# One source and the others.


#: Each of these makes a quote one that is refused, whatever came before.
WRONG: list[dict[str, int]] = [
    {"bid": -1},
    {"bid": 0, "ask": 0},
    {"bid": 999},
    {"ask": 50_000_001},
    {"ask": 120_000},
    {"bid_size": -1},
    {"ts_event": 0},
]


@st.composite
def refusals(draw: st.DrawFn, at: int) -> Record:
    """A tick of the source ``bad`` that must be refused, received at ``at``."""
    wrong = draw(st.sampled_from(WRONG))
    fields: dict[str, int] = {"bid": 109_000, "ask": 109_010, **wrong}
    fields["ts_event"] = at - 16 * MINUTE if "ts_event" in wrong else at
    return market.quote(at=at, source="bad", **fields)


@tries(80)
@given(market.SETUP, ACTS, st.data())
def test_a_source_whose_ticks_are_all_refused_changes_nothing_of_the_others(
    setup: Setup, acts: list[Act], data: st.DataObject
) -> None:
    log = market.play(setup, acts)
    mixed, now = [], 0
    for piped in log:
        mixed.append(piped)
        if getattr(piped.record, "symbol", SYMBOL) == SYMBOL:
            now = max(now, recv_of(piped))
        if now and data.draw(st.booleans()):
            mixed.append(Piped(data.draw(refusals(now)), max(now, piped.append)))
    known = market.instruments_of(setup)
    end = Piped(clock(now + MINUTE), now + MINUTE)  # what is due already comes out of both
    alone, beside = (values(outputs_of(product([*each, end], known))) for each in (log, mixed))
    for (topic, symbol), records in beside.items():
        others = [record for record in records if source_of(record) != "bad"]
        assert others == alone.get((topic, symbol), [])
    accepted = beside.get((topics.TICK.name, SYMBOL), [])
    assert "bad" not in {record.source for record in accepted}


def source_of(record: Any) -> str:
    """The source of an output; of a best price none."""
    return str(record.tick.source if hasattr(record, "tick") else getattr(record, "source", ""))


@tries(120)
@given(market.SETUP, ACTS)
def test_no_best_price_names_a_source_that_was_not_eligible(setup: Setup, acts: list[Act]) -> None:
    log, known = market.play(setup, acts), market.instruments_of(setup)
    entries = [reference.Entry(offset, piped.append, piped.record) for offset, piped in enumerate(log)]
    _, symbols = reference.replay(entries, known)
    found = outputs_of(product(log, known))
    for name in known:
        eligible = symbols[name].eligible if name in symbols else []
        best = [record for record, _ in found.get((topics.BEST.name, name), [])]
        assert len(best) == len(eligible)
        for record, sources in zip(best, eligible, strict=True):
            assert {record.bid_source, record.ask_source} - {""} <= sources
            assert record.eligible <= len(sources)
            assert (record.state == "no_source") == (not sources)


@tries(120)
@given(market.SETUP, ACTS)
def test_best_prices_are_prices_that_their_sources_gave(setup: Setup, acts: list[Act]) -> None:
    """The legs of each record are clean quotes accepted before, of the sources that it names."""
    driver = TopologyDriver(market.instruments_of(setup))
    bids: set[tuple[str, str, int]] = set()
    asks: set[tuple[str, str, int]] = set()
    for piped in market.play(setup, acts):
        driver.pipe(piped.record, append=piped.append)
        for output in driver.read(topics.TICK):
            tick = output.record
            if isinstance(tick, Quote):
                bids.add((tick.symbol, tick.source, tick.bid))
                asks.add((tick.symbol, tick.source, tick.ask))
        for output in driver.read(topics.BEST):
            best = output.record
            if best.state != "no_source":
                assert (best.symbol, best.bid_source, best.bid) in bids
                assert (best.symbol, best.ask_source, best.ask) in asks
                assert best.bid < best.ask


# Accounts.


@tries(120)
@given(market.SETUP, ACTS)
def test_accepted_and_rejected_and_held_are_all_that_arrived(setup: Setup, acts: list[Act]) -> None:
    driver = TopologyDriver(market.instruments_of(setup))
    arrived: Counter[tuple[str, str]] = Counter()
    accepted: Counter[tuple[str, str]] = Counter()
    refused: Counter[tuple[str, str, str]] = Counter()
    for piped in market.play(setup, acts):
        driver.pipe(piped.record, append=piped.append)
        if isinstance(piped.record, Quote | Trade):
            arrived[piped.record.symbol, piped.record.source] += 1
        accepted.update((each.record.symbol, each.record.source) for each in driver.read(topics.TICK))
        for each in driver.read(topics.REJECTED):
            tick = each.record.tick
            refused[tick.symbol, tick.source, each.record.reason] += 1
        for each in driver.read(topics.STATUS):
            assert_accounted(each.record)
        for symbol, source in arrived:
            status = driver.state(symbol)["sources"][source]
            assert_accounted(status)
            assert (status.arrived, status.accepted) == (arrived[symbol, source], accepted[symbol, source])
            reasons = {key[2]: count for key, count in refused.items() if key[:2] == (symbol, source)}
            assert status.rejected == reasons


def assert_accounted(status: Status) -> None:
    """The sum of a scoreboard is right."""
    assert status.arrived == status.accepted + status.held + sum(status.rejected.values())


@tries(100)
@given(market.SETUP, ACTS)
def test_the_ticks_of_an_accepted_source_come_once_each(setup: Setup, acts: list[Act]) -> None:
    """Every tick piped in comes out as accepted or refused at most once, and what is held comes later."""
    log = market.play(setup, acts)
    found = outputs_of(product([*log, Piped(clock(log[-1].append + MINUTE), log[-1].append + MINUTE)],
                               market.instruments_of(setup)))  # fmt: skip
    offsets: Counter[int] = Counter()
    for (topic, _), outputs in found.items():
        if topic in (topics.TICK.name, topics.REJECTED.name):
            offsets.update(offset for _, offset in outputs)
    ticks = [offset for offset, piped in enumerate(log) if isinstance(piped.record, Quote | Trade)]
    assert sorted(offsets.elements()) == ticks


@tries(100)
@given(market.SETUP, ACTS)
def test_revisions_of_a_candle_only_rise_and_so_do_its_offsets(setup: Setup, acts: list[Act]) -> None:
    """So that a reader who keeps the highest, by either, and of equals the later, keeps the last."""
    found = outputs_of(product(market.play(setup, acts), market.instruments_of(setup)))
    last: dict[tuple[str, str, int], tuple[int, int]] = {}
    for (topic, symbol), outputs in found.items():
        for record, offset in outputs if topic == topics.CANDLE.name else []:
            if record.flags & flags.BACKFILL and record.revision == 0:
                continue  # an old minute, fetched more than once, is written as it comes
            key = (symbol, record.source, record.start)
            revision, before = last.get(key, (-1, -1))
            assert record.revision >= revision
            assert offset >= before
            last[key] = record.revision, offset


# State, time, batches, partitions.


@tries(60)
@given(market.SETUP, ACTS, st.sets(st.integers(0, 59), max_size=6))
def test_a_restart_at_any_point_changes_no_later_output(setup: Setup, acts: list[Act], at: set[int]) -> None:
    log, known = market.play(setup, acts), market.instruments_of(setup)
    undisturbed = everything(product(log, known))
    driver = TopologyDriver(known)
    for number, piped in enumerate(log):
        driver.pipe(piped.record, append=piped.append)
        if number in at:
            driver.restart()
    assert everything(driver) == undisturbed


@tries(80)
@given(market.SETUP, ACTS, st.data())
def test_results_do_not_depend_on_how_often_the_clock_ticks(setup: Setup, acts: list[Act], data: st.DataObject) -> None:
    """A clock record between two records tells nothing that the next one does not tell."""
    log = [piped for piped in market.play(setup, acts) if not isinstance(piped.record, Clock)]
    log = [piped for piped in log if piped.record.symbol == SYMBOL]  # type: ignore[union-attr]
    dense, now = [], 0
    for piped in log:
        recv = recv_of(piped)
        if 0 < now < recv:
            times = data.draw(st.lists(st.integers(now, recv), max_size=4).map(sorted))
            dense += [Piped(Clock(time), time) for time in times]
        now = max(now, recv)
        dense.append(piped)
    known = market.instruments_of(setup)
    assert values(outputs_of(product(dense, known))) == values(outputs_of(product(log, known)))


CODEC = Codec()


def fetched(log: list[Piped]) -> list[Fetched]:
    """The log as records fetched from Kafka. Kafka's time is in whole milliseconds."""
    return [
        of.fetched(
            *("market.raw", 0, offset, piped.append // 1_000_000),
            *(getattr(piped.record, "symbol", "").encode(), CODEC.encode(piped.record)),
        )
        for offset, piped in enumerate(log)
    ]


def joined(parts: list[list[list[Any]]]) -> list[list[Any]]:
    """Several takes as one: outputs by topic."""
    return [[output for part in outputs for output in part] for outputs in zip(*parts, strict=True)]


@tries(60)
@given(market.SETUP, ACTS, st.lists(st.integers(1, 20), min_size=1))
def test_any_batch_size_gives_the_same_bytes(setup: Setup, acts: list[Act], sizes: list[int]) -> None:
    records, known = fetched(market.play(setup, acts)), market.instruments_of(setup)
    whole = Task(0, known, CODEC)
    whole.process(records)
    batched = Task(0, known, CODEC)
    parts, at, turn = [], 0, 0
    while at < len(records):
        size = sizes[turn % len(sizes)]
        batched.process(records[at : at + size])
        parts.append(batched.take())
        batched.save(1.0)
        at, turn = at + size, turn + 1
    assert joined(parts) == joined([whole.take()])


SHARES = st.floats(0.01, 1.0)


@tries(100)
@given(market.SETUP, ACTS, st.lists(st.tuples(st.integers(1, 30), SHARES, st.booleans()), max_size=12))
def test_after_a_crash_at_any_point_the_outputs_are_those_of_an_undisturbed_run(
    setup: Setup, acts: list[Act], commits: list[tuple[int, float, bool]]
) -> None:
    """Exactly once: outputs and what is saved of the state become durable together, again and again, or not at all."""
    records, known = fetched(market.play(setup, acts)), market.instruments_of(setup)
    whole = Task(0, known, CODEC)
    whole.process(records)
    made: list[list[list[Any]]] = []
    saved: dict[bytes, bytes] = {}
    at = 0  # what is read next
    task = Task(0, known, CODEC)
    for size, share, crashes in [*commits, (len(records), 1.0, False)]:
        if crashes:
            if records[at:]:
                task.process(records[at : at + size])  # in vain: the transaction is undone
            task = Task(0, known, CODEC)
            for key, value in saved.items():
                task.load(key, value)
            at = state_offset(saved[b"#0"]) + 1 if saved else 0
        if records[at:]:
            task.process(records[at : at + size])
            at += size
            made.append(task.take())
            saved |= dict(task.save(share))
    assert joined(made) == joined([whole.take()])
    assert saved | dict(task.save(1.0)) == dict(whole.save(1.0))


@tries(60)
@given(market.SETUP, ACTS, st.data())
def test_at_least_once_what_a_crash_repeats_is_the_same_again(
    setup: Setup, acts: list[Act], data: st.DataObject
) -> None:
    """The outputs are delivered before the state: of its last records any number may be missing."""
    records, known = fetched(market.play(setup, acts)), market.instruments_of(setup)
    whole = Task(0, known, CODEC)
    whole.process(records)
    before = Task(0, known, CODEC)
    made: list[list[list[Any]]] = []
    saved: dict[bytes, bytes] = {}
    at = 0
    for last in (False, False, True):
        end = data.draw(st.integers(at, len(records)))
        if at < end:
            before.process(records[at:end])
            at = end
            made.append(before.take())
            changes = before.save(data.draw(SHARES))
            saved |= dict(changes[: data.draw(st.integers(0, len(changes)))] if last else changes)
    after = Task(0, known, CODEC)
    for key, value in saved.items():
        after.load(key, value)
    begin = state_offset(saved[b"#0"]) + 1 if b"#0" in saved else 0
    if begin < len(records):
        after.process(records[begin:])
    for number, (expected, again) in enumerate(zip(whole.take(), after.take(), strict=True)):
        for symbol in known:
            key = symbol.encode()
            first = [output for part in made for output in part[number] if is_of(output, key)]
            second = [output for output in again if is_of(output, key)]
            all_of_it = [output for output in expected if is_of(output, key)]
            assert first == all_of_it[: len(first)]
            assert second == all_of_it[len(all_of_it) - len(second) :]
            assert len(first) + len(second) >= len(all_of_it)


@tries(40)
@given(st.lists(st.integers(0, 19), min_size=40, max_size=400), st.integers(2, 12))
def test_saving_a_share_at_every_commit_saves_every_symbol_in_time(chosen: list[int], commits: int) -> None:
    """So the state never lies further behind than one round of commits, and no commit saves more than its share."""
    names = [f"S{number:02d}" for number in range(20)]
    known = {name: instrument(name) for name in names}
    task = Task(0, known, CODEC)
    ticks = [market.quote(at=NOON + at, symbol=names[number]) for at, number in enumerate(chosen)]
    records = fetched([Piped(tick, tick.ts_recv) for tick in ticks])
    ends = []
    for at in range(0, len(records), 7):
        task.process(records[at : at + 7])
        saved = task.save(1 / commits)
        assert len(saved) - 1 <= len(names) / commits + 1
        ends.append(task.offset)
        assert state_offset(saved[-1][1]) >= (ends[-commits - 2] if len(ends) > commits + 1 else -1)


def is_of(output: Any, symbol: bytes) -> bool:
    """Whether an output is of a symbol: keys are the symbol, or begin with it."""
    return bytes(output[0]).split(b"|")[0] == symbol


@tries(60)
@given(market.SETUP, ACTS)
def test_symbols_on_partitions_of_their_own_give_the_same(setup: Setup, acts: list[Act]) -> None:
    """Every partition has the clock records; offsets differ, so the values are compared."""
    setup = Setup(setup.sources, 2, setup.start, setup.calendar, setup.strategy, setup.provisional)
    log, known = market.play(setup, acts), market.instruments_of(setup)
    together = values(outputs_of(product(log, known)))
    apart: dict[tuple[str, str], list[Any]] = {}
    for symbol in known:
        own = [piped for piped in log if getattr(piped.record, "symbol", symbol) == symbol]
        apart |= values(outputs_of(product(own, known)))
    assert apart == together


@tries(40)
@given(market.SETUP, ACTS)
def test_run_twice_gives_identical_bytes(setup: Setup, acts: list[Act]) -> None:
    log, known = market.play(setup, acts), market.instruments_of(setup)
    assert everything(product(log, known)) == everything(product(log, known))


def test_what_would_make_a_state_too_large_for_kafka_is_set_aside() -> None:
    setup = Setup(sources=1)
    known = market.instruments_of(setup)
    task = Task(0, known, CODEC)
    long = [
        market.quote(id="i" * NAME_LENGTH),
        market.quote(id="i" * (NAME_LENGTH + 1), at=market.NOON + 1),
        market.quote(source="s" * (NAME_LENGTH + 1), at=market.NOON + 2),
        market.quote(id="i" * RECORD_BYTES, at=market.NOON + 3),
    ]
    task.process(fetched([Piped(record, record.ts_recv) for record in long]))
    assert task.dead_letters == {flags.OVERSIZED: 3}
    assert [len(records) for records in task.take()][topics.TOPICS.index(topics.TICK)] == 1


def test_a_record_of_which_nobody_knows_the_schema_now_is_no_dead_letter() -> None:
    """Nor is it passed: whoever owns the partition next begins with it."""

    def away(_number: int) -> str:
        raise ConnectionError("start it")

    ids = {cls.__name__: number for number, cls in enumerate(RECORDS)}
    task = Task(0, {SYMBOL: instrument()}, Codec(ids, away))
    good = task.codec.encode(market.quote())
    values = [good, b"\0\0\0\0\x63" + good[5:]]
    records = [of.fetched("market.raw", 0, at, NOON, SYMBOL.encode(), value) for at, value in enumerate(values)]
    with pytest.raises(ConnectionError, match="start it"):
        task.process(records)
    assert task.dead_letters == {}
    assert (task.offset, task.processed) == (-1, 0)


@tries(60)
@given(market.SETUP, ACTS)
def test_the_state_of_a_symbol_stays_bounded(setup: Setup, acts: list[Act]) -> None:
    """A few KB for each source, however long the market runs: the design's limit."""
    known: dict[str, Instrument] = market.instruments_of(setup)
    task = Task(0, known, CODEC)
    log = market.play(setup, acts * 8)
    task.process(fetched(log))
    for key, value in task.save(1.0):
        assert len(value) < 2_000 + 5_000 * setup.sources, key
    assert {symbol_of(made.record) for made in task.partition.out} == set()
