"""The picture of the demo: everything that matters is on it at every size of the terminal."""

import io

import pytest
from rich.console import Console, RenderableType

from connectors.simulated import SECOND, Event, Label
from schemas import flags
from schemas.record import Best, Gap, Quote, Rejected, Status
from topology.demo.expected import Expected
from topology.demo.report import Row
from topology.demo.seen import Seen
from topology.demo.view import DIFFERENCES_SHOWN, Frame, line, picture, summary

NOW = 1_790_000_000 * SECOND
QUOTE = Quote("EURUSD", "bravo", NOW - 5_000_000, NOW, 109_120, 109_128)


def frame(width: int = 120, height: int = 40, **fields: object) -> Frame:
    expected, seen = Expected(), Seen()
    expected.note(Event(NOW, QUOTE, Label.SPIKE))
    seen.take(Rejected(QUOTE, flags.SPIKE, 0, 0, 0), NOW)
    best = Best("EURUSD", NOW - 1, NOW, "normal", 109_120, 1, "alfa", 109_131, 1, "echo", 1_091_255, 2)
    seen.take(best, NOW + 4_000_000)
    seen.take(Gap("EURUSD", "bravo", NOW, 0, "stale", "open"), NOW)
    for source, status in (("alfa", "live"), ("bravo", "stale"), ("delta", "disconnected")):
        record = Status("EURUSD", source, status, NOW, NOW, NOW, 0, 0, 8, 1, 1, 0, 0, {})
        seen.take(record, NOW)
    made = Frame(90, 42, NOW, expected, seen, {"ticks": 12_345}, [], "http://127.0.0.1:6066/")
    for name, value in {"width": width, "height": height, **fields}.items():
        setattr(made, name, value)
    return made


def drawn(renderable: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, height=100, force_terminal=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (200, 60)])
def test_the_picture_fits_and_shows_all_that_matters(width: int, height: int) -> None:
    text = drawn(picture(frame(width, height)), width)
    assert len(text.splitlines()) <= height
    assert "…" not in text  # nothing is cut off
    for part in ("1.09120", "1.09131", "alfa", "echo", "normal", "1.01 bp", "BTCUSDT", "00:42 of 01:30", "SPIKE"):
        assert part in text
    for part in ("p50 4.0 ms", "ticks 12,345", "http://127.0.0.1:6066/", "open gaps 1"):
        assert part in text


def test_the_status_of_a_source_is_a_word_or_where_there_is_no_room_a_sign() -> None:
    wide, narrow = drawn(picture(frame(120))), drawn(picture(frame(80)), 80)
    assert all(word in wide for word in ("live", "stale", "down"))
    assert "● ○ ✕ ·" in narrow


def test_a_wide_terminal_has_room_for_the_refused_ticks_and_gaps_of_each_symbol() -> None:
    [row] = [text for text in drawn(picture(frame(124)), 124).splitlines() if text.startswith("EURUSD")]
    assert row.split()[8:11] == ["0", "1", "1"]  # ticks/s, refused, open gaps


def test_what_just_happened_is_told() -> None:
    assert "EURUSD: bravo is connected but silent: gap opened" in drawn(picture(frame()))


def test_what_the_end_waits_for_is_said() -> None:
    text = drawn(picture(frame(80, 24, notes=["the rest is read and stored"])), 80)
    assert "the rest is read and stored" in text
    assert len(text.splitlines()) <= 24


def test_without_a_price_the_state_says_so() -> None:
    at = frame()
    none = Best("EURUSD", NOW, NOW, "no_source", 0, 0, "", 0, 0, "", 0, 0)
    at.seen.take(none, NOW)
    assert "no_source" in drawn(picture(at))


def test_the_line_for_no_terminal_has_the_counts_by_reason() -> None:
    text = line(frame())
    assert "\n" not in text
    assert "1 refused (SPIKE 1)" in text
    assert "database 12,345 ticks" in text


def test_the_summary_names_the_first_differences_and_counts_the_lines() -> None:
    wrong = Row("gaps", "stored", 9, 2, [f"EURUSD bravo {n}: missing" for n in range(7)])
    rows = [Row("late", "refused LATE", 3, 3), wrong]
    text = drawn(summary(rows, Seen(), 10.0))
    assert "1 of 2 lines differ" in text
    assert text.count("missing") == DIFFERENCES_SHOWN
    assert "and 2 more" in text
    assert "all 1 lines agree" in drawn(summary(rows[:1], Seen(), 10.0))
