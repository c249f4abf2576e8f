"""The simulated brokers keep to their labels, so that what they injected is known exactly."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from connectors.simulated import (
    BROKERS,
    CLOCK_TAIL_NS,
    HOUR,
    MARKETS,
    MINUTE,
    OUTAGES,
    RULES,
    SECOND,
    Event,
    Feed,
    Label,
    instruments,
)
from schemas import flags
from schemas.record import Clock, Link, Quote, Trade

START = 1_790_000_000 * SECOND
SECONDS = 60


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(Feed(3, START, START + SECONDS * SECOND))


def labelled(events: list[Event], label: Label) -> list[Event]:
    return [event for event in events if event.label is label]


def before(events: list[Event], event: Event) -> list[Quote]:
    """The quotes of the same source and symbol up to an event."""
    same = (event.record.symbol, event.record.source)  # type: ignore[union-attr]
    quotes = (e.record for e in events[: events.index(event)] if isinstance(e.record, Quote))
    return [quote for quote in quotes if (quote.symbol, quote.source) == same]


def test_the_same_seed_and_start_give_the_same_events(events: list[Event]) -> None:
    assert list(Feed(3, START, START + SECONDS * SECOND)) == events
    assert list(Feed(4, START, START + SECONDS * SECOND)) != events


def test_events_come_in_order_of_time_and_end_before_the_end(events: list[Event]) -> None:
    assert all(a.due_ns <= b.due_ns for a, b in pairwise(events))
    assert events[0].due_ns == START
    assert START + (SECONDS - 2) * SECOND < events[-1].due_ns < START + SECONDS * SECOND


def test_there_are_300_to_1000_ticks_a_second_from_every_broker_of_every_symbol(events: list[Event]) -> None:
    ticks = [event.record for event in events if isinstance(event.record, Quote | Trade)]
    assert 300 < len(ticks) / SECONDS < 1000
    assert {(t.symbol, t.source) for t in ticks} == {(m.symbol, b.name) for m in MARKETS for b in BROKERS}


def test_a_clock_comes_every_second_and_outlives_the_last_tick(events: list[Event]) -> None:
    clocks = [event.due_ns for event in events if isinstance(event.record, Clock)]
    assert {b - a for a, b in pairwise(clocks)} == {SECOND}
    last = max(event.due_ns for event in events if isinstance(event.record, Quote))
    assert SECOND < clocks[-1] - last <= CLOCK_TAIL_NS + SECOND


def test_a_clean_tick_has_times_of_its_own_that_never_go_back(events: list[Event]) -> None:
    newest: defaultdict[tuple[str, str], int] = defaultdict(int)
    for event in labelled(events, Label.CLEAN):
        tick = event.record
        assert isinstance(tick, Quote | Trade)
        assert newest[tick.symbol, tick.source] < tick.ts_event <= tick.ts_recv == event.due_ns
        assert isinstance(tick, Trade) or tick.bid < tick.ask
        newest[tick.symbol, tick.source] = tick.ts_event


def test_a_duplicate_repeats_the_last_quote_in_all_but_its_arrival(events: list[Event]) -> None:
    for event in labelled(events, Label.DUPLICATE):
        again = event.record
        assert isinstance(again, Quote)
        recent = [(q.id, q.ts_event, q.bid, q.ask) for q in before(events, event)[-32:]]
        assert (again.id, again.ts_event, again.bid, again.ask) in recent


def test_a_snapshot_is_never_newer_than_its_source(events: list[Event]) -> None:
    found = labelled(events, Label.SNAPSHOT)
    for event in found:
        assert isinstance(event.record, Quote)
        assert event.record.flags == flags.SNAPSHOT
        assert event.record.ts_event <= max(quote.ts_event for quote in before(events, event))
    reconnected = {e.due_ns for e in labelled(events, Label.CONNECTED) if e.due_ns > START}
    assert reconnected <= {event.due_ns for event in found}


def test_late_is_beyond_the_limit_and_out_of_order_is_not(events: list[Event]) -> None:
    assert all(16 * MINUTE <= e.due_ns - e.record.ts_event <= HOUR for e in labelled(events, Label.LATE))  # type: ignore[union-attr]
    for event in labelled(events, Label.OUT_OF_ORDER):
        assert isinstance(event.record, Quote)
        newest = max(q.ts_event for q in before(events, event) if q.ts_event <= event.due_ns)
        assert 200_000_000 <= newest - event.record.ts_event <= 3 * SECOND


def test_a_spike_is_alone_in_its_symbol_and_returns_at_once(events: list[Event]) -> None:
    last: dict[tuple[str, str], tuple[Label, int]] = {}
    for event in events:
        tick = event.record
        if not isinstance(tick, Quote):
            continue
        key = (tick.symbol, tick.source)
        label, due_ns = last.get(key, (Label.CLEAN, 0))
        if label in (Label.SPIKE, Label.JUMP):
            assert event.label is Label.CLEAN
            assert event.due_ns - due_ns < SECOND
        if event.label is Label.SPIKE:
            pending = [k for k, (label, _) in last.items() if label is Label.SPIKE and k[0] == tick.symbol]
            assert pending == []
        last[key] = (event.label, event.due_ns)


def test_in_a_jump_every_connected_broker_moves_within_60_ms(events: list[Event]) -> None:
    jumps = labelled(events, Label.JUMP)
    assert jumps
    for jump in jumps:
        first = jump.record
        assert isinstance(first, Quote)
        after = [
            event.record
            for event in events
            if jump.due_ns < event.due_ns <= jump.due_ns + 60_000_000 and isinstance(event.record, Quote)
        ]
        followers = {q.source: q for q in after if q.symbol == first.symbol}
        assert len(followers) >= 2
        assert first.source not in followers
        assert all(abs(q.bid / first.bid - 1) < 0.001 for q in followers.values())
        assert abs(before(events, jump)[-1].bid / first.bid - 1) > 0.002


def test_a_wrong_clock_is_an_hour_ahead_of_the_time_of_sending(events: list[Event]) -> None:
    found = [e for e in labelled(events, Label.WRONG_CLOCK) if isinstance(e.record, Quote)]
    assert all(e.record.ts_event > e.due_ns + HOUR - SECOND for e in found)  # type: ignore[union-attr]
    hosts = [e for e in found if e.record.ts_recv != e.due_ns]  # type: ignore[union-attr]
    assert hosts
    assert all(e.record.ts_recv == e.due_ns + HOUR for e in hosts)  # type: ignore[union-attr]


def test_only_the_broker_that_promises_it_has_numbers_and_they_are_without_holes(events: list[Event]) -> None:
    seqs: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    holes: Counter[tuple[str, str]] = Counter()
    for event in events:
        tick = event.record
        if isinstance(tick, Quote | Trade) and tick.seq and event.label not in (Label.DUPLICATE, Label.SNAPSHOT):
            seqs[tick.symbol, tick.source].append(tick.seq)
            holes[tick.symbol, tick.source] += event.label is Label.HOLE
    assert {source for _, source in seqs} == {b.name for b in BROKERS if b.contiguous}
    for key, numbers in seqs.items():
        assert sum(b != a + 1 for a, b in pairwise(numbers)) == holes[key]


def test_brokers_fall_silent_or_disconnect_and_come_back(events: list[Event]) -> None:
    gone = labelled(events, Label.DISCONNECTED)
    back = [e for e in labelled(events, Label.CONNECTED) if e.due_ns > START]
    assert len(gone) == len(back) == 2 * len(MARKETS)
    assert back[0].due_ns - gone[0].due_ns >= OUTAGES["disconnect"][0]
    longest: defaultdict[str, int] = defaultdict(int)  # without a tick and without a heartbeat
    newest: dict[tuple[str, str], int] = {}
    for event in events:
        if isinstance(event.record, Quote | Trade | Link):
            key = (event.record.symbol, event.record.source)
            longest[event.record.source] = max(longest[key[1]], event.due_ns - newest.get(key, START))
            newest[key] = event.due_ns
    assert longest["bravo"] >= OUTAGES["silent"][0]  # it is the first
    assert longest["echo"] < 2 * SECOND  # it had nothing to say, but sent heartbeats


@pytest.mark.parametrize("after_s", [0.5, 5, 9, 17, 26])
def test_finish_brings_what_is_under_way_to_its_outcome_within_10_seconds(after_s: float) -> None:
    feed = Feed(5, START)
    ended = finished = 0
    disturbed: dict[tuple[str, str], Label] = {}
    down: set[tuple[str, str]] = set()
    for event in feed:
        if not finished and event.due_ns > START + after_s * SECOND:
            feed.finish()
            finished = event.due_ns
        ended = event.due_ns
        if isinstance(event.record, Link):
            key = (event.record.symbol, event.record.source)
            (down.add if event.label is Label.DISCONNECTED else down.discard)(key)
        elif not isinstance(event.record, Clock):
            disturbed[event.record.symbol, event.record.source] = event.label
    assert ended - finished < 10 * SECOND
    assert down == set()
    assert not {Label.SPIKE, Label.JUMP} & set(disturbed.values())


def test_the_markets_never_close_and_keep_the_rules_of_their_class() -> None:
    described = instruments({"fx": {"calendar": "fx", "rules": {"max_spread_bps": 7}}})
    rules = {"max_spread_bps": 7, **RULES}
    assert described["classes"] == {"fx": {"calendar": "always", "rules": rules}}
    assert list(described["instruments"]) == [market.symbol for market in MARKETS]
