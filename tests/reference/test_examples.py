"""Examples worked out by hand from docs/stages.md: both the oracle and the product must give them."""

from collections.abc import Callable
from typing import Any

import pytest

from schemas import flags, topics
from schemas.instrument import Instrument, Rules, Source
from schemas.record import Best, Candle, Gap, Record, Rejected, Status
from tests import market
from tests.market import MINUTE, NOON, SECOND, SYMBOL, Piped, clock, instrument, link, quote, trade
from tests.reference.compare import oracle, outputs_of, product

Run = Callable[..., dict[str, list[tuple[Any, int]]]]
MS = 1_000_000


@pytest.fixture(params=["oracle", "product"])
def run(request: pytest.FixtureRequest) -> Run:
    """Pipe records of one symbol; give (record, offset) by topic name."""

    def piped(*records: Record, at: Instrument | None = None, append: int = 0) -> dict[str, list[Any]]:
        known = {SYMBOL: at or instrument()}
        log = [Piped(record, append or getattr(record, "ts_recv", 0)) for record in records]
        both = oracle(log, known) if request.param == "oracle" else outputs_of(product(log, known))
        return {topic.name: both.get((topic.name, SYMBOL), []) for topic in topics.TOPICS}

    return piped


def calm(count: int, source: str = "a", start: int = NOON) -> list[Record]:
    """Quotes 100 ms apart at 1.09000 / 1.09010: median 1090050, MAD 0, band 500 by five spreads of 100."""
    return [quote(at=start + n * 100 * MS, source=source) for n in range(count)]


def test_a_single_tick_away_is_refused_when_the_next_returns(run: Run) -> None:
    away, back = NOON + 500 * MS, NOON + 600 * MS
    out = run(*calm(5), quote(109_051, 109_061, away), quote(at=back))
    assert [record.ts_event for record, _ in out["market.data.tick"]][-1] == back
    [(refused, offset)] = out["market.data.tick.rejected"]
    assert refused == Rejected(quote(109_051, 109_061, away), flags.SPIKE, 1_090_560, 1_090_050, 500)
    assert offset == 5


def test_a_mid_at_the_edge_of_the_band_is_inside(run: Run) -> None:
    out = run(*calm(5), quote(109_050, 109_060, NOON + 500 * MS))
    assert len(out["market.data.tick"]) == 6


def test_the_fourth_tick_at_a_new_level_releases_all_in_order(run: Run) -> None:
    jump = [quote(110_000, 110_010, NOON + (5 + n) * 100 * MS) for n in range(4)]
    out = run(*calm(5), *jump)
    released = out["market.data.tick"][5:]
    assert [offset for _, offset in released] == [5, 6, 7, 8]
    assert {record.flags for record, _ in released} == {flags.RELEASED}
    assert out["market.data.tick.rejected"] == []


def test_a_jump_on_two_sources_is_believed_at_the_second(run: Run) -> None:
    first = quote(110_000, 110_010, NOON + 600 * MS, "a")
    second = quote(110_001, 110_011, NOON + 601 * MS, "b")
    out = run(*calm(5, "a"), *calm(5, "b", NOON + 500 * MS), first, second)
    *_, (own, _), (other, offset) = out["market.data.tick"]
    assert own == second
    assert (other.source, other.flags, offset) == ("a", flags.RELEASED, 10)


def test_a_slow_lone_source_is_believed_after_three_more(run: Run) -> None:
    slow = [quote(110_000, 110_010, NOON + SECOND + n * 20 * SECOND) for n in range(4)]
    out = run(*calm(5), *slow)
    assert [record.reason for record, _ in out["market.data.tick.rejected"]] == [flags.SPIKE_TIMEOUT] * 3
    assert out["market.data.tick"][-1][0].ts_event == slow[3].ts_event


def test_a_repeat_is_refused_but_the_same_price_at_a_newer_time_is_news(run: Run) -> None:
    again, newer = quote(ts_recv=NOON + 1), quote(at=NOON + 2)
    out = run(quote(), again, newer)
    assert [record for record, _ in out["market.data.tick"]] == [quote(), newer]
    assert out["market.data.tick.rejected"] == [(Rejected(again, flags.DUPLICATE, NOON, NOON, 32), 1)]


def test_times_that_ran_ahead_are_clamped_and_say_so(run: Run) -> None:
    ahead = quote(at=NOON + 3 * SECOND)
    out = run(ahead, append=NOON)
    [(tick, _)] = out["market.data.tick"]
    assert (tick.ts_event, tick.ts_recv, tick.flags) == (NOON, NOON, flags.BAD_CLOCK)


def test_a_source_that_is_silent_while_its_peer_goes_on_is_stale_at_its_ttl(run: Run) -> None:
    peers = [quote(at=NOON + n * SECOND, source="b") for n in range(7)]
    out = run(quote(at=NOON - 1, source="a"), *peers)
    fallen = NOON - 1 + 5 * SECOND + 1
    assert out["market.data.gap"] == [(Gap(SYMBOL, "a", NOON - 1, 0, "stale", "open"), 6)]
    statuses = [record for record, _ in out["market.source.status"] if record.source == "a"]
    assert [(status.status, status.since) for status in statuses] == [("live", NOON - 1), ("stale", fallen)]
    assert out["market.data.best"][-1][0].bid_source == "b"
    assert out["market.data.best"][-1][0].ts_recv == fallen


def test_a_market_that_is_silent_as_a_whole_is_quiet(run: Run) -> None:
    out = run(quote(), clock(NOON + MINUTE))
    assert out["market.source.status"][-1][0].status == "quiet"
    assert out["market.data.gap"] == []
    assert out["market.data.best"][-1][0].state == "no_source"


def test_a_weekend_is_no_gap(run: Run) -> None:
    """Friday 2026-03-06 22:00 UTC the FX week closes; Sunday 2026-03-08, in summer time, it opens at 21:00."""
    close, opens = market.moment("2026-03-06T22:00:00"), market.moment("2026-03-08T21:00:00")
    fx = instrument(calendar="fx")
    down = link("disconnected", close - SECOND)
    out = run(quote(at=close - 2 * SECOND), down, clock(opens - 1), link("connected", opens), at=fx)
    gaps = [record for record, _ in out["market.data.gap"]]
    assert gaps[1] == Gap(SYMBOL, "a", close - 2 * SECOND, close, "disconnect", "closed")
    assert gaps[2] == Gap(SYMBOL, "a", opens, 0, "disconnect", "open")
    statuses = [(record.status, record.since) for record, _ in out["market.source.status"]]
    assert statuses == [
        ("live", close - 2 * SECOND),
        ("disconnected", close - SECOND),
        ("closed", close),
        ("disconnected", opens),
        ("live", opens),
    ]


def test_a_quote_from_before_the_close_is_none_after_the_open(run: Run) -> None:
    close, opens = market.moment("2026-03-06T22:00:00"), market.moment("2026-03-08T21:00:00")
    early = quote(108_000, 108_010, opens - SECOND)
    out = run(quote(at=close - 1), early, link(at=opens), at=instrument(calendar="fx"))
    assert [record.state for record, _ in out["market.data.best"]] == ["single_source", "no_source"]
    assert len(out["market.data.tick"]) == 2


RANKED = instrument(
    sources={"a": Source(priority=1), "b": Source(priority=2), "c": Source(priority=3, weight=3)},
    rules=Rules(provisional_ns=0, outlier_bps=10, skew_ns=100 * MS),
)


def best(out: dict[str, list[Any]]) -> Best:
    """The last best price."""
    found: Best = out["market.data.best"][-1][0]
    return found


def test_the_best_legs_may_come_from_two_sources_and_ties_go_to_the_better_priority(run: Run) -> None:
    ticks = [quote(source="a"), quote(109_002, 109_011, source="b"), quote(109_001, 109_010, source="c")]
    found = best(run(*ticks, at=RANKED))
    assert (found.state, found.bid, found.bid_source) == ("normal", 109_002, "b")
    assert (found.ask, found.ask_source, found.eligible) == (109_010, "a", 3)
    assert found.consensus == 1_090_055  # c weighs as much as the others together and one more


def test_a_crossed_composite_drops_the_older_leg(run: Run) -> None:
    older, newer = quote(109_020, 109_030, NOON, "a"), quote(at=NOON + 101 * MS, source="b")
    found = best(run(older, newer, at=RANKED))
    assert (found.state, found.bid_source, found.ask_source) == ("crossed", "b", "b")


def test_a_crossed_composite_of_one_moment_is_the_consensus(run: Run) -> None:
    older, newer = quote(109_020, 109_030, NOON, "a"), quote(at=NOON + 100 * MS, source="b")
    found = best(run(older, newer, at=RANKED))
    assert (found.state, found.bid, found.ask) == ("crossed", 109_000, 109_010)


def test_an_outlier_is_left_out_until_three_quotes_of_its_own_are_near(run: Run) -> None:
    """The band is 10 bps of the middle mid: 1090 in mid units; half of it readmits."""
    far = quote(109_200, 109_210, NOON + 2, "c")
    near = [quote(109_001 + n, 109_011 + n, NOON + 3 + n, "c") for n in range(3)]
    records = [quote(source="a"), quote(at=NOON + 1, source="b"), far, *near]
    sizes = [best(run(*records[: 3 + n], at=RANKED)).eligible for n in range(4)]
    assert sizes == [2, 2, 2, 3]


def test_two_that_disagree_leave_the_better_ranked_in_low_confidence(run: Run) -> None:
    found = best(run(quote(source="b"), quote(109_200, 109_210, NOON + 1, "a"), at=RANKED))
    assert (found.state, found.bid_source, found.eligible) == ("low_confidence", "a", 1)


def test_a_minute_is_final_by_its_watermark_and_revised_by_a_late_tick(run: Run) -> None:
    late = quote(108_990, 109_000, NOON + 30 * SECOND, ts_recv=NOON + 63 * SECOND)
    ticks = [quote(), quote(109_002, 109_012, NOON + 59 * SECOND), quote(at=NOON + 62 * SECOND), late]
    out = run(link("connected", NOON - 1), *ticks)
    rows: list[Candle] = [record for record, _ in out["market.data.candle.1m"] if record.source == "a"]
    assert [(row.revision, row.ticks) for row in rows] == [(0, 2), (1, 3)]
    assert (rows[0].mid_open, rows[0].mid_high, rows[0].mid_low, rows[0].mid_close) == (
        *(1_090_050, 1_090_070, 1_090_050, 1_090_070),
    )
    assert (rows[1].bid_open, rows[1].bid_high, rows[1].bid_low, rows[1].bid_close) == (
        *(109_000, 109_002, 108_990, 109_002),
    )
    assert rows[1].flags == 0


def test_a_minute_in_which_a_source_first_spoke_is_partial(run: Run) -> None:
    out = run(
        trade(size=7),
        clock(NOON + 70 * SECOND),
        trade(at=NOON - 1, ts_recv=NOON + 71 * SECOND),
        clock(NOON + 72 * SECOND),
    )
    rows = {row.start: row for row, _ in out["market.data.candle.1m"]}
    assert (rows[NOON].flags, rows[NOON].volume, rows[NOON].trades) == (0, 7, 1)
    assert rows[NOON - MINUTE].flags == flags.PARTIAL


def test_a_status_accounts_for_every_tick(run: Run) -> None:
    records = [*calm(5), quote(at=NOON), quote(-1, at=NOON + 600 * MS), quote(112_000, 112_010, NOON + SECOND)]
    out = run(*records, clock(NOON + 2 * SECOND), trade(at=NOON + 2 * SECOND, source="b"), clock(NOON + 10 * SECOND))
    status: Status = [record for record, _ in out["market.source.status"] if record.source == "a"][-1]
    assert (status.arrived, status.accepted, status.held) == (8, 5, 0)
    assert status.rejected == {flags.DUPLICATE: 1, flags.NOT_POSITIVE: 1, flags.SPIKE_TIMEOUT: 1}


def test_a_hole_in_the_sequence_is_a_closed_gap(run: Run) -> None:
    counted = instrument(sources={"a": Source(contiguous=True)})
    out = run(
        quote(seq=5), quote(at=NOON + 1, seq=6), quote(at=NOON + 9, seq=8), quote(at=NOON + 11, seq=3), at=counted
    )
    assert [gap for gap, _ in out["market.data.gap"]] == [Gap(SYMBOL, "a", NOON + 1, NOON + 9, "sequence", "closed")]


def test_a_fetched_candle_fills_a_partial_minute_once(run: Run) -> None:
    names = [f"{side}_{name}" for side in ("bid", "ask", "mid") for name in ("open", "high", "low", "close")]
    fetched = Candle(SYMBOL, "a", NOON, 0, **dict.fromkeys(names, 109_000), ticks=9)
    out = run(quote(at=NOON + SECOND), clock(NOON + 70 * SECOND), fetched, fetched)
    rows = [row for row, _ in out["market.data.candle.1m"] if row.source == "a"]
    assert [(row.revision, row.flags, row.ticks) for row in rows] == [(0, flags.PARTIAL, 1), (1, flags.BACKFILL, 9)]


def test_a_mid_at_the_edge_of_the_outlier_band_stays_in(run: Run) -> None:
    """Mids 1000000 (twice) and 1001000: the middle is 1000000, its 10 bps are 1000 and the half spreads are less."""
    pair = [quote(99_990, 100_010, source="a"), quote(99_990, 100_010, NOON + 1, "b")]
    assert best(run(*pair, quote(100_090, 100_110, NOON + 2, "c"), at=RANKED)).eligible == 3
    assert best(run(*pair, quote(100_090, 100_111, NOON + 2, "c"), at=RANKED)).eligible == 2


def test_of_equal_legs_of_equal_rank_and_time_the_larger_wins_and_then_the_first_name(run: Run) -> None:
    sizes = [("a", 1, 5), ("b", 4, 5), ("c", 4, 2)]
    found = best(run(*[quote(source=name, bid_size=bid, ask_size=ask) for name, bid, ask in sizes]))
    assert (found.bid_source, found.bid_size, found.ask_source, found.ask_size) == ("b", 4, "a", 5)


def test_a_fetched_candle_corrects_a_minute_that_is_kept_and_is_written_as_it_is_after_that(run: Run) -> None:
    names = [f"{side}_{name}" for side in ("bid", "ask", "mid") for name in ("open", "high", "low", "close")]
    fetched = Candle(SYMBOL, "a", NOON, 0, **dict.fromkeys(names, 109_000))
    for later, revision in ((0, 1), (1, 0)):
        out = run(quote(at=NOON + SECOND), clock(NOON + 17 * MINUTE + later), fetched)
        assert out["market.data.candle.1m"][-1][0].revision == revision
