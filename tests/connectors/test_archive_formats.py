"""Each format: a row in, a record out, exactly; what is no tick raises with a reason."""

import json
import lzma
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.archive import dukascopy, histdata, lean, plain, truefx
from connectors.archive.number import LONGEST, Mantissas, Zone, exact
from schemas.instrument import ConfigError, Instrument, mantissa, text
from schemas.record import Quote, Trade

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"the recorded data are not in {DATA}")

MS = 1_000_000
PRICES = st.integers(1, 10**9)
SIZES = st.integers(0, 10**12)
FX = Instrument("EURUSD", "fx", 5, "fx")
COIN = Instrument("BTCUSD", "crypto", 2, "always", size_scale=8)
TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - made UTC here
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
)


def ns(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def lean_line(name: str = "20140501_quote.zip", zone: str = "UTC"):
    return lean.parser(name, "EURUSD", "fxcm", Mantissas(5), Mantissas(8, negative=False), Zone(zone))


def csv_line(header: str, zone: str = "UTC"):
    return plain.parser(header, "EURUSD", "mine", Mantissas(5), Mantissas(8, negative=False), Zone(zone))


NUMBERS = st.text(alphabet="0123456789.eE+-_ NaInf", max_size=28) | st.decimals(places=5).map(str)


def outcome(read, *args):
    try:
        return read(*args)
    except ValueError:
        return "refused"


@given(NUMBERS.filter(lambda number: len(number) <= 28), st.integers(0, 8))
def test_a_number_reads_as_the_instrument_reads_it_however_often(number, scale):
    """The remembered numbers are those of schemas.instrument.mantissa; both refuse the same texts."""
    numbers = Mantissas(scale)
    try:
        expected = outcome(mantissa, number, scale)
    except ArithmeticError:  # an exponent beyond what decimal holds
        expected = "refused"
    assert outcome(numbers.__getitem__, number) == expected
    assert outcome(numbers.__getitem__, number) == expected


@pytest.mark.parametrize(
    "number",
    ["", " ", "NaN", "inf", "-Infinity", "1.123456", "1e999999999", "1e30", "1,5", "1.0" + "0" * 40 + "1", "0x1"],
)
def test_what_is_no_exact_price_is_refused_with_a_reason(number):
    with pytest.raises(ValueError, match=r"empty|number|finite|finer|64 bits|longer"):
        Mantissas(5)[number]


def test_a_negative_size_is_refused_but_a_negative_price_is_left_to_the_stages():
    assert Mantissas(5)["-1.5"] == -150000
    with pytest.raises(ValueError, match="negative"):
        Mantissas(5, negative=False)["-1.5"]


NUMBERS = st.from_regex(r"[-+]?[0-9]{0,20}\.?[0-9]{0,14}0{0,4}(e[0-9])?", fullmatch=True)


@given(NUMBERS | st.text("0123456789._-+ eE٣", max_size=8), st.integers(0, 12))
def test_plain_numbers_are_read_as_decimals_are(number, scale):
    """The short way gives what the long one gives, or leaves it to it."""

    def outcome(read):
        try:
            return read(number, scale)
        except (ValueError, DecimalException):
            return "refused"

    if len(number) <= LONGEST and number.strip():
        assert outcome(exact) == outcome(mantissa)


def test_a_divisor_must_divide_exactly():
    assert Mantissas(2, divisor=100)["12345.00"] == 12345
    with pytest.raises(ValueError, match="finer than 2 decimals"):
        Mantissas(2, divisor=100)["12345.01"]


def test_few_texts_are_kept_however_many_come(monkeypatch):
    monkeypatch.setattr("connectors.archive.number.REMEMBERED", 10)
    prices = Mantissas(0)
    assert [prices[str(n)] for n in range(100)] == list(range(100))
    assert len(prices) <= 10


@given(TIMES, PRICES, PRICES)
def test_a_lean_quote_round_trips(at, bid, ask):
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    line = f"{(at - midnight) // timedelta(milliseconds=1)},{text(bid, 5)},{text(ask, 5)}"
    parse = lean_line(f"{at:%Y%m%d}_quote.zip")
    assert parse(line) == Quote("EURUSD", "fxcm", ns(at), ns(at), bid, ask)


@given(PRICES, PRICES, SIZES, SIZES)
def test_lean_quotes_with_sizes_and_trades_round_trip(bid, ask, bid_size, ask_size):
    at = ns(datetime(2014, 5, 1, 0, 0, 1, tzinfo=UTC))
    quote = f"1000,{text(bid, 5)},{text(bid_size, 8)},{text(ask, 5)},{text(ask_size, 8)}\r"
    assert lean_line()(quote) == Quote("EURUSD", "fxcm", at, at, bid, ask, bid_size, ask_size)
    trade = lean_line("20140501_eurusd_tick_trade.csv")(f"1000,{text(bid, 5)},{text(bid_size, 8)}")
    assert trade == Trade("EURUSD", "fxcm", at, at, bid, bid_size)


def test_a_fraction_of_a_lean_millisecond_is_kept():
    assert lean_line()("1000.0001,1.1,1.2").ts_event % 1_000_000_000 == 100


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("86400000,1.1,1.2", "not within a day"),
        ("-1,1.1,1.2", "not within a day"),
        ("x,1.1,1.2", "not a number"),
        ("1000,1.1", "2 fields"),
        ("1000,1.1,", "empty"),
        ("1000,1.1,1.2,,", "empty"),
        ("1000,1.1,-5,1.2,5", "negative"),
        ("1000,1.123456,1.2", "finer than 5 decimals"),
        ("1000,NaN,1.2", "not finite"),
        ("52200000,13870000,100,N,@,0", "6 fields"),  # an equity trade, its price times 10,000
    ],
)
def test_a_bad_lean_row_says_what_is_wrong(line, reason):
    with pytest.raises(ValueError, match=reason):
        lean_line()(line)


def test_lean_knows_the_zone_of_its_own_markets():
    assert lean.timezone(PurePosixPath("/data/forex/fxcm/tick/eurusd/20140501_quote.zip"), "broker") == "UTC-05"
    assert lean.timezone(PurePosixPath("/data/forex/oanda/tick/eurusd/20140501_quote.zip"), "oanda") == "UTC"
    assert lean.timezone(PurePosixPath("/download/20140501_quote.zip"), "fxcm") == "UTC-05"


def test_lean_bars_are_not_taken_for_ticks():
    with pytest.raises(ValueError, match="minute bars, not ticks"):
        lean.check("20140501_eurusd_minute_quote.csv")


@pytest.mark.parametrize(
    ("zone", "utc"),
    [("UTC", 12), ("UTC-05", 17), ("UTC+05:30", 6.5), ("UTC-5", 17), ("America/New_York", 16), ("Asia/Tokyo", 3)],
)
def test_a_zone_is_utc_a_fixed_offset_or_a_name(zone, utc):
    """In May New York is four hours behind UTC."""
    noon = ns(datetime(2014, 5, 1, 12, tzinfo=UTC))
    assert Zone(zone).utc(noon) - noon == round((utc - 12) * 3600) * 1_000_000_000


@pytest.mark.parametrize("zone", ["EDT5", "UTC-99", "Nowhere/Land", "", "/etc/passwd"])
def test_an_unknown_zone_says_what_may_be_given(zone):
    with pytest.raises(ConfigError, match="give UTC, a fixed offset as UTC-05"):
        Zone(zone)


@pytest.mark.parametrize(("ms", "what"), [(5_400_000, "comes twice"), (7_200_000, None)])
def test_a_local_time_that_comes_twice_is_refused_not_guessed(ms, what):
    """On 2 November 2014 New York sets its clocks back from 2:00 to 1:00."""
    parse = lean_line("20141102_quote.zip", "America/New_York")
    if what:
        with pytest.raises(ValueError, match=what):
            parse(f"{ms},1.1,1.2")
    else:
        assert parse(f"{ms},1.1,1.2").ts_event == ns(datetime(2014, 11, 2, 7, tzinfo=UTC))


def test_a_local_time_that_is_skipped_is_refused():
    with pytest.raises(ValueError, match="does not exist"):
        lean_line("20140309_quote.zip", "America/New_York")("9000000,1.1,1.2")


@given(TIMES, PRICES, PRICES)
def test_a_histdata_row_round_trips(at, bid, ask):
    """Its clock is five hours behind UTC, in summer too."""
    own = at - timedelta(hours=5)
    line = f"{own:%Y%m%d %H%M%S}{own.microsecond // 1000:03},{text(bid, 5)}0,{text(ask, 5)}0,0\r"
    parse = histdata.parser("EURUSD", "histdata", Mantissas(5), Zone(histdata.TIMEZONE))
    assert parse(line) == Quote("EURUSD", "histdata", ns(at), ns(at), bid, ask)


def test_histdata_rows_of_its_own_documentation():
    parse = histdata.parser("EURUSD", "histdata", Mantissas(5), Zone(histdata.TIMEZONE))
    quote = parse("20120201 000003660,1.306600,1.306770,0")
    assert quote.ts_event == ns(datetime(2012, 2, 1, 5, 0, 3, 660_000, tzinfo=UTC))
    assert (quote.bid, quote.ask) == (130660, 130677)


@pytest.mark.parametrize(
    "line",
    [
        "20120230 000003660,1.3066,1.3067,0",
        "20120201 240003660,1.3066,1.3067,0",
        "20120201 006003660,1.3066,1.3067,0",
        "20120201 000060000,1.3066,1.3067,0",
        "20120201 00000366,1.3066,1.3067,0",
        "20120201 00000366-,1.3066,1.3067,0",
        "20120201 0000,1.3066,1.3067,0",
        "2012-02-01 00:00:03,1.3066,1.3067,0",
        "20120201 000003660,1.3066,1.3067",
        "20120201 000003660;1.3066;1.3067;0",
        "",
    ],
)
def test_a_bad_histdata_row_is_refused(line):
    parse = histdata.parser("EURUSD", "histdata", Mantissas(5), Zone(histdata.TIMEZONE))
    with pytest.raises(ValueError, match=r"fields|not|must be in|out of range|invalid literal"):
        parse(line)


@given(TIMES, PRICES, PRICES)
def test_a_truefx_row_round_trips(at, bid, ask):
    stamp = f"{at:%Y%m%d %H:%M:%S}.{at.microsecond // 1000:03}"
    parse = truefx.parser("EURUSD", "truefx", Mantissas(5), Zone("UTC"))
    line = f"EUR/USD,{stamp},{text(bid, 5)},{text(ask, 5)}"
    assert parse(line) == Quote("EURUSD", "truefx", ns(at), ns(at), bid, ask)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("GBP/USD,20130101 22:00:00.123,1.3,1.4", "of GBP/USD, not of EURUSD"),
        ("EUR/USD,20130101 22:00:60.123,1.3,1.4", "not YYYYMMDD"),
        ("EUR/USD,20130101 25:00:00.123,1.3,1.4", "hour must be"),
        ("EUR/USD,20130101 22:00:00,1.3,1.4", "not YYYYMMDD"),
        ("EUR/USD,20130101T22:00:00.123,1.3,1.4", "not the time"),
        ("EUR/USD,20130101 22:00:00.123,1.3", "3 fields"),
    ],
)
def test_a_bad_truefx_row_says_what_is_wrong(line, reason):
    parse = truefx.parser("EURUSD", "truefx", Mantissas(5), Zone("UTC"))
    with pytest.raises(ValueError, match=reason):
        parse(line)


@given(st.integers(10**18, 2**62), PRICES, PRICES, SIZES, SIZES)
def test_a_plain_row_round_trips_with_its_columns_in_any_order(at, bid, ask, bid_size, ask_size):
    fields = f"{text(ask, 5)},{text(ask_size, 8)},{at},{text(bid, 5)},{text(bid_size, 8)},x7"
    parse = csv_line("ask, ask_size,TS_EVENT,bid,bid_size,id")
    assert parse(fields) == Quote("EURUSD", "mine", at, at, bid, ask, bid_size, ask_size, "x7")


def test_a_plain_trade():
    at = 1_357_077_600 * 10**9
    assert csv_line("ts_event,price,size,id\r")("1357077600,1.5,0.25,t1") == Trade(
        "EURUSD", "mine", at, at, 150000, 25000000, "t1"
    )


@pytest.mark.parametrize("header", ["", "time,bid,ask", "ts_event,bid", "ts_event,bid,ask,bid", "1,2,3"])
def test_a_header_that_is_not_ours_is_shown(header):
    with pytest.raises(ValueError, match=r"its header is .* not ts_event,bid,ask"):
        plain.columns(header)


@pytest.mark.parametrize(
    ("time", "ns_expected"),
    [
        ("2013-01-01 22:00:00.295000+00:00", 1357077600295000000),  # as in the recorded TrueFX sample
        ("2013-01-01T22:00:00.295Z", 1357077600295000000),
        ("2013-01-01T17:00:00.295-05:00", 1357077600295000000),
        ("2013-01-02T03:30:00.000000001+0530", 1357077600000000001),
        ("2013-01-01T22:00:00", 1357077600000000000),
        ("1357077600", 1357077600000000000),
        ("1357077600.295000001", 1357077600295000001),
        ("1357077600295", 1357077600295000000),
        ("1357077600295.5", 1357077600295500000),
        ("1357077600295001", 1357077600295001000),
        ("1357077600295000001", 1357077600295000001),
        ("9223372036", 9223372036 * 10**9),  # the last second that fits
    ],
)
def test_a_plain_time_is_iso_or_a_number_whose_size_tells_its_unit(time, ns_expected):
    parse = csv_line("ts_event,bid,ask")
    assert parse(f"{time},1,2").ts_event == ns_expected


def test_a_plain_time_without_an_offset_is_in_the_zone_of_the_file():
    parse = csv_line("ts_event,bid,ask", "UTC-05")
    assert parse("2013-01-01 17:00:00,1,2").ts_event == 1357077600000000000
    assert parse("1357077600,1,2").ts_event == 1357077600000000000  # a number is UTC


@pytest.mark.parametrize(
    "time",
    ["", "yesterday", "2013-13-01T00:00:00", "2013-01-01", "0", "-5", "nan", "9999999999", "2013-01-01T00:00:60"],
)
def test_a_bad_time_is_refused(time):
    with pytest.raises(ValueError, match=r"empty|number|month|1970|finite|64 bits"):
        csv_line("ts_event,bid,ask")(f"{time},1,2")


def bi5_line(instrument: Instrument, own: int, divisor: int = 1):
    price = dukascopy.price(own, instrument, divisor)
    return dukascopy.parser(instrument.symbol, "dukascopy", 0, price, dukascopy.Volumes(instrument.size_scale))


@given(st.integers(0, 3_599_999), st.integers(1, 2**32 - 1), st.integers(0, 10**6))
def test_a_bi5_record_round_trips(ms, price, hundredths):
    """Volumes have up to six digits, as a float32 keeps them."""
    volume = struct.unpack(">f", struct.pack(">f", hundredths / 100))[0]
    quote = bi5_line(FX, 5)((ms, price, price, volume, volume))
    units = hundredths * 10_000
    assert quote == Quote("EURUSD", "dukascopy", ms * MS, ms * MS, price, price, units, units)


@given(st.floats(0, 2**24, width=32, allow_nan=False))
def test_a_volume_is_the_shortest_decimal_of_its_float(value):
    shortest = dukascopy.shortest(value)
    assert struct.unpack(">f", struct.pack(">f", float(shortest)))[0] == value
    assert len(shortest.as_tuple().digits) <= 9


def test_a_volume_finer_than_ours_is_rounded_half_to_even():
    volumes = dukascopy.Volumes(0)
    assert volumes[struct.unpack(">f", struct.pack(">f", 1.1300001))[0]] == 1_130_000
    assert volumes[2.0**-20] == 1  # 0.95 of a unit
    assert volumes[2.0**-22] == 0
    assert dukascopy.Volumes(8)[0.0005000000237487257] == 500 * 10**8


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((3_600_000, 1, 1, 1.0, 1.0), "not within an hour"),
        ((0, 1, 1, float("nan"), 1.0), "no volume"),
        ((0, 1, 1, 1.0, float("inf")), "no volume"),
        ((0, 1, 1, -1.0, 1.0), "no volume"),
        ((0, 1, 1, 1.0, 1e30), "64 bits"),
    ],
)
def test_a_bad_bi5_record_says_what_is_wrong(row, reason):
    with pytest.raises(ValueError, match=reason):
        bi5_line(FX, 5)(row)


def test_dukascopys_scale_becomes_ours_exactly():
    assert dukascopy.price(1, COIN, 1)(249215) == 2492150
    assert dukascopy.price(3, COIN, 1)(1000) == 100
    with pytest.raises(ValueError, match="1001 at 3 decimals is finer than 2"):
        dukascopy.price(3, COIN, 1)(1001)


@pytest.mark.parametrize(
    ("symbol", "kind", "own"),
    [("EURUSD", "fx", 5), ("GBPJPY", "fx", 3), ("XAUUSD", "metal", 3), ("SPX500", "index", 3), ("BTCUSD", "crypto", 1)],
)
def test_dukascopys_decimals_are_known(symbol, kind, own):
    assert dukascopy.decimals(Instrument(symbol, kind, 5, "fx")) == own


def test_unknown_decimals_are_asked_for_not_guessed():
    with pytest.raises(ConfigError, match="give --decimals"):
        dukascopy.decimals(Instrument("AAPL", "equity", 4, "us-equity"))


def test_the_month_in_a_bi5_path_counts_from_zero():
    path = PurePosixPath("GBPJPY/2012/11/03/07h_ticks.bi5")
    assert dukascopy.hour_in(path) == ns(datetime(2012, 12, 3, 7, tzinfo=UTC))
    assert dukascopy.hour_of("2012-12-03T07") == dukascopy.hour_in(path)
    for wrong in ("GBPJPY/2012/12/03/07h_ticks.bi5", "BID_candles_min_1.bi5"):
        with pytest.raises(ValueError, match=r"month|no hour in its path"):
            dukascopy.hour_in(PurePosixPath(wrong))
    with pytest.raises(ConfigError, match="write it as"):
        dukascopy.hour_of("2012-02-31T07")


@real
@pytest.mark.parametrize(
    ("name", "own", "scale", "count"),
    [("decoded_sample_tick_data.json", 5, 5, 3733), ("decoded_sample_tick_data_with_gaps.json", 3, 3, None)],
)
def test_bi5_decodes_to_the_golden_ticks(name, own, scale, count):
    """The golden rows, packed as Dukascopy packs them, come out as the same decimals."""
    rows = json.loads((DATA / "dukascopy/json_2026" / name).read_text(), parse_float=Decimal)
    instrument = Instrument("EURUSD", "fx", scale, "fx")
    hour = rows[0][0] // 3_600_000 * 3_600_000
    rows = [row for row in rows if row[0] < hour + 3_600_000]
    packed = [
        struct.pack(">IIIff", ms - hour, int(ask.scaleb(own)), int(bid.scaleb(own)), float(ask_size), float(bid_size))
        for ms, ask, bid, ask_size, bid_size in ((row[0], *map(Decimal, row[1:])) for row in rows)
    ]
    unpacked = lzma.decompress(lzma.compress(b"".join(packed), format=lzma.FORMAT_ALONE))
    parse = bi5_line(instrument, own)
    quotes = [parse(row) for row in struct.iter_unpack(">IIIff", unpacked)]
    assert len(quotes) == (count or len(rows)) > 300
    for row, quote in zip(rows, quotes, strict=True):
        ms, ask, bid, ask_size, bid_size = (row[0], *map(Decimal, row[1:]))
        assert quote.ts_event == (ms - hour) * MS
        assert (Decimal(quote.ask), Decimal(quote.bid)) == (ask.scaleb(scale), bid.scaleb(scale))
        assert (quote.ask_size, quote.bid_size) == (ask_size.scaleb(6), bid_size.scaleb(6))


def test_a_long_number_is_never_rounded():
    with pytest.raises(ValueError, match="longer than 28"):
        exact("1." + "0" * 30 + "1", 5)
