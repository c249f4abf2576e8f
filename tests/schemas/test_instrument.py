"""Scales, exactness, and errors that say what to do."""

from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.instrument import Calendar, ConfigError, load, mantissa, text
from topology.stages.calendar import CALENDARS


@given(st.integers(-(10**15), 10**15), st.integers(0, 9))
def test_a_price_survives_the_way_to_text_and_back(value: int, scale: int) -> None:
    assert mantissa(text(value, scale), scale) == value
    assert Decimal(text(value, scale)) == Decimal(value).scaleb(-scale)


@pytest.mark.parametrize(
    ("price", "scale", "value"), [("1.2e1", 0, 12), ("-0.50", 1, -5), ("0e999999999", 2, 0), ("1.0000000", 2, 100)]
)
def test_a_price_may_be_written_in_any_way(price: str, scale: int, value: int) -> None:
    assert mantissa(price, scale) == value


@pytest.mark.parametrize(
    ("price", "scale", "complaint"),
    [
        ("1.091234", 5, "finer than 5 decimals"),
        ("NaN", 5, "not finite"),
        ("-Infinity", 5, "not finite"),
        ("1,09", 5, "not a number"),
        ("", 5, "not a number"),
        ("99999999999999", 9, "64 bits"),
        ("1e999999999", 0, "64 bits"),
        ("1e-999999999", 5, "finer"),
        ("1." + 31 * "0" + "1", 5, "finer"),
    ],
)
def test_a_price_is_never_rounded_nor_guessed(price: str, scale: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mantissa(price, scale)


def test_every_calendar_that_may_be_named_is_known() -> None:
    assert set(get_args(Calendar)) == set(CALENDARS)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("classes: {}\ninstruments: {X: {class: fx, price_scale: 5}}", "class 'fx' is not one of"),
        ("classes: {fx: {calendar: fx}}\ninstruments: {X: {class: fx, price_scale: 15}}", "between 0 and 12"),
        ("classes: {fx: {calendar: fx}}\ninstruments: {X: {class: fx, price_scal: 5}}", "price_scal"),
        (
            "classes: {fx: {calendar: fx}}\ninstruments: {X: {class: fx, price_scale: 5, size_scale: -1}}",
            "size_scale -1",
        ),
        ("classes: {fx: {calendar: forex}}\ninstruments: {X: {class: fx, price_scale: 5}}", "forex"),
        (
            "classes: {fx: {calendar: fx}}\ninstruments: {X: {class: fx, price_scale: 5, sources: {a: {divisor: 0}}}}",
            "divisor",
        ),
        ("classes: {fx: {calendar: fx, rules: {spike: 1}}}\ninstruments: {X: {class: fx, price_scale: 5}}", "spike"),
        ("classes: [", "while parsing"),
    ],
)
def test_a_wrong_instruments_file_says_where(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "instruments.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        load(path)


def test_a_missing_instruments_file_says_which_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TICKLOOM_INSTRUMENTS"):
        load(tmp_path / "absent.yaml")
