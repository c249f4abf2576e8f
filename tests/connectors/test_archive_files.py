"""Files: recognised by name and content, read to their end whatever is in them, merged by time."""

import gzip
import lzma
import random
import struct
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.archive import file as archive
from connectors.archive.file import ArchiveError, Asked, BadRow, TickFile
from connectors.archive.merge import batches, merged
from schemas.instrument import ConfigError, load
from schemas.record import Quote, Trade

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"the recorded data are not in {DATA}")

SECOND = 1_000_000_000
DAY = 1_398_902_400 * SECOND  # 2014-05-01
INSTRUMENTS = load()


def tick_file(path: Path, source: str = "oanda", symbol: str = "EURUSD", **asked) -> TickFile:
    return TickFile(Asked(path, source, symbol, **asked), INSTRUMENTS[symbol])


def lean_zip(folder: Path, rows: str, name: str = "20140501_quote.zip", inner: str = "20140501_eurusd_tick_quote.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(inner, rows)
    return folder / name


def split(file: TickFile) -> tuple[list, list[BadRow]]:
    rows = list(file.rows())
    return [row for row in rows if not isinstance(row, BadRow)], [row for row in rows if isinstance(row, BadRow)]


def many(rows: int, step_ms: int = 1000) -> str:
    return "".join(f"{n * step_ms},1.38{n % 1000:03},1.39{n % 1000:03}\r\n" for n in range(rows))


def packed_ticks(rows: int) -> bytes:
    return lzma.compress(
        b"".join(struct.pack(">IIIff", n * 100, 138720 + n, 138700 + n, 1.5, 0.75) for n in range(rows)),
        format=lzma.FORMAT_ALONE,
    )


HISTDATA = "20140501 000003660,1.386600,1.386770,0\r\n"
TRUEFX = "EUR/USD,20140501 00:00:00.123,1.38660,1.38677\n"
PLAIN = "ts_event,bid,ask\n2014-05-01T00:00:00Z,1.3866,1.3867\n"


@pytest.mark.parametrize(
    ("name", "content", "format_", "zone"),
    [
        ("20140501_quote.csv", "0,1.38,1.39\n", "lean", "UTC"),
        ("DAT_ASCII_EURUSD_T_201405.csv", HISTDATA, "histdata", "UTC-05"),
        ("EURUSD-2014-05.csv", TRUEFX, "truefx", "UTC"),
        ("EURUSD-2014-05.csv", "garbage\n" + TRUEFX, "truefx", "UTC"),
        ("mine.csv", PLAIN, "csv", "UTC"),
        ("mine.txt", "\ufeff" + PLAIN, "csv", "UTC"),
    ],
)
def test_a_format_is_told_by_name_and_content(tmp_path, name, content, format_, zone):
    path = tmp_path / name
    path.write_text(content)
    assert (tick_file(path).format, tick_file(path).timezone) == (format_, zone)
    zipped = lean_zip(tmp_path / "zip", content, name=f"{name}.zip", inner=name)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    for other in (zipped, tmp_path / f"{name}.gz"):
        assert tick_file(other).format == format_
        assert list(tick_file(other).rows())[-1:] == list(tick_file(path).rows())[-1:]


def test_a_zip_may_hold_other_things_beside_its_csv(tmp_path):
    """As HistData's do: a status report in a .txt."""
    path = lean_zip(tmp_path, HISTDATA, name="HISTDATA_COM_ASCII_EURUSD_T201405.zip", inner="DAT_ASCII.csv")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("DAT_ASCII.txt", "status")
    assert len(split(tick_file(path))[0]) == 1


def test_what_the_user_says_goes_before_what_is_found(tmp_path):
    path = tmp_path / "ticks.csv"
    path.write_text(HISTDATA)
    file = tick_file(path, format="histdata", timezone="UTC")
    assert next(file.rows()).ts_event == DAY + 3_660_000_000
    with pytest.raises(ArchiveError, match="no truefx ticks: line 1: a price of 20140501 000003660, not of EURUSD"):
        tick_file(path, format="truefx")


def test_leans_fxcm_files_are_five_hours_behind(tmp_path):
    fxcm, oanda = (lean_zip(tmp_path / name / "tick", "0,1.38,1.39\n") for name in ("fxcm", "oanda"))
    assert next(tick_file(oanda).rows()).ts_event == DAY
    assert next(tick_file(fxcm).rows()).ts_event == DAY + 5 * 3600 * SECOND
    assert next(tick_file(fxcm, timezone="UTC").rows()).ts_event == DAY


ROWS = [
    ("0,1.38,1.39", None),
    ("1000,NaN,1.39", "not finite"),
    ("", None),
    ("2000,1.38,inf", "not finite"),
    ("3000,1.3812345,1.39", "finer than 5 decimals"),
    ("4000,1.38", "2 fields"),
    ("5000,1.38,,1.39,1", "empty"),
    ("6000,1.38,-1,1.39,1", "negative"),
    ("7000,1.38,1.39", None),
    ("\x00\x00\x00", "1 fields"),
    ("caf\u00e9,1.38,1.39", "not a number"),
    ("8000,1.38,1.39", None),
]


def test_each_bad_row_is_kept_with_its_line_and_reason_and_the_rest_goes_on(tmp_path):
    path = lean_zip(tmp_path, "\r\n".join(row for row, _ in ROWS))
    ticks, bad = split(tick_file(path))
    assert [tick.ts_event - DAY for tick in ticks] == [0, 7 * SECOND, 8 * SECOND]
    expected = [(line, text, reason) for line, (text, reason) in enumerate(ROWS, 1) if reason]
    assert [(row.line, row.text) for row in bad] == [(line, text) for line, text, _ in expected]
    for row, (_, _, reason) in zip(bad, expected, strict=True):
        assert reason in row.reason
        assert row.file.path == path


def test_bytes_that_are_no_text_are_bad_rows(tmp_path):
    path = tmp_path / "20140501_quote.csv"
    path.write_bytes(b"0,1.38,1.39\n1000,\xff\xfe,1.39\n" + b"\x00" * 200_000 + b"\n2000,1.38,1.39\n")
    ticks, bad = split(tick_file(path))
    assert len(ticks) == 2
    assert [row.line for row in bad] == [2, 3]
    assert all(len(row.text) <= archive.SHOWN for row in bad)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), max_size=40)))
def test_no_text_ends_the_reading_and_none_is_lost(tmp_path_factory, lines):
    """Every line that is not blank is a tick or a bad row, in its place."""
    path = tmp_path_factory.mktemp("any") / "20140501_quote.csv"
    path.write_text("0,1.38,1.39\n" + "\n".join(lines), newline="")
    ticks, bad = split(tick_file(path))
    assert len(ticks) + len(bad) == 1 + sum(1 for line in lines if line.strip())


def test_a_torn_zip_gives_what_is_whole_and_says_so(tmp_path):
    """A byte of the packed rows is changed: the checksum finds it at the end."""
    path = lean_zip(tmp_path, many(20_000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    ticks, bad = split(tick_file(path))
    assert len(ticks) > 1000
    assert "fetch it again" in bad[-1].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "torn or not what its name says"),
        (b"PK\x03\x04 and no more", "torn or not what its name says"),
        (b"<html>404</html>", "torn or not what its name says"),
        (b"PK\x05\x06" + bytes(18), "no files in the zip"),
    ],
)
def test_a_file_that_is_no_zip_is_named_in_one_line(tmp_path, content, reason):
    path = tmp_path / "20140501_quote.zip"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=reason) as raised:
        tick_file(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert raised.value.bad_row.line == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("20140501_quote.csv", "", "no lean ticks: it is empty"),
        ("mine.csv", "", "it is empty"),
        ("mine.csv", "a;b;c\n1;2;3\n", "no format is recognised .*'a;b;c'.*: give --format"),
        ("mine.csv", "ts_event,bid,ask\n", "no csv ticks: it is empty"),
        ("mine.csv", "ts_event,bid,ask\nx,1,2\n", "line 2: 'x' is not a number"),
        ("20140501_eurusd_minute_quote.csv", "0,1,1,1,1,0,1,1,1,1,0\n", "minute bars, not ticks"),
        ("20140501_quote.csv", "0,1,1,1,1,0,1,1,1,1,0\n" * 5, "line 1: 11 fields"),
        ("20141350_quote.csv", "0,1,2\n", "month must be"),
        ("BID_candles_min_1.bi5", "x", "no hour in its path"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(ArchiveError, match=reason):
        tick_file(tmp_path / name)


def test_a_missing_file_is_named_in_one_line(tmp_path):
    with pytest.raises(ArchiveError, match=r"gone\.csv: No such file"):
        tick_file(tmp_path / "gone.csv")


def test_an_encrypted_zip_says_so(tmp_path):
    path = lean_zip(tmp_path, many(3))
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="password required"):
        tick_file(path)


def bi5(folder: Path, content: bytes) -> Path:
    path = folder / "2014" / "04" / "01" / "07h_ticks.bi5"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_bi5_of_no_bytes_is_an_hour_without_ticks(tmp_path):
    assert list(tick_file(bi5(tmp_path, b"")).rows()) == []


def test_a_torn_bi5_gives_what_is_whole_and_says_so(tmp_path):
    rows = b"".join(
        struct.pack(">IIIff", n, *(random.Random(n).randrange(10**5, 10**6),) * 2, 1, 1) for n in range(5000)
    )
    content = lzma.compress(rows, format=lzma.FORMAT_ALONE)
    ticks, bad = split(tick_file(bi5(tmp_path, content[: len(content) // 2])))
    assert 1000 < len(ticks) < 5000
    assert [(row.line, "it ends" in row.reason) for row in bad] == [(len(ticks) + 1, True)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lzma.compress(bytes(19), format=lzma.FORMAT_ALONE), "middle of a record"),
        (b"<html>blocked</html>", "not what its name says"),
    ],
)
def test_a_bi5_without_a_whole_record_is_named(tmp_path, content, reason):
    with pytest.raises(ArchiveError, match=reason):
        tick_file(bi5(tmp_path, content))


def test_bytes_after_the_end_of_a_bi5_are_not_passed_over(tmp_path):
    ticks, bad = split(tick_file(bi5(tmp_path, packed_ticks(10) + b"more")))
    assert len(ticks) == 10
    assert "left over" in bad[0].reason


def test_the_hour_of_a_bi5_may_be_given(tmp_path):
    path = tmp_path / "07h_ticks.bi5"
    path.write_bytes(packed_ticks(3))
    with pytest.raises(ArchiveError, match="give --hour"):
        tick_file(path)
    file = tick_file(path, hour="2014-05-01T07")
    assert next(file.rows()) == Quote(
        "EURUSD", "oanda", DAY + 7 * 3600 * SECOND, DAY + 7 * 3600 * SECOND, 138700, 138720, 750_000, 1_500_000
    )
    with pytest.raises(ConfigError, match="are in UTC"):
        tick_file(path, hour="2014-05-01T07", timezone="UTC-05")


# minute      0  1  2  999  3  4       one row alone in the future: that one
# minute      0 30 31  1 32            one row far in the past: that one
# minute      0 30 31 20 32            late, but the stages know what to do: kept, in its place
@pytest.mark.parametrize(
    ("minutes", "refused"),
    [
        ([0, 1, 2, 999, 3, 4], [4]),
        ([0, 30, 31, 1, 32], [4]),
        ([0, 30, 31, 20, 32], []),
        ([999, 0, 1, 2], [1]),
        ([0, 1, 999], []),
        ([60, 40, 20, 0], [1, 2, 3]),
        ([0, 17, 1, 18], [2]),
        ([0, 16, 1, 17], []),
    ],
)
def test_a_row_far_out_of_the_order_of_time_is_refused(tmp_path, minutes, refused):
    rows = "".join(f"{minute * 60_000},1.38,1.39\n" for minute in minutes)
    ticks, bad = split(tick_file(lean_zip(tmp_path, rows)))
    assert [row.line for row in bad] == refused
    assert all("sort the file by time" in row.reason for row in bad)
    kept = [minute for line, minute in enumerate(minutes, 1) if line not in refused]
    assert [(tick.ts_event - DAY) // (60 * SECOND) for tick in ticks] == kept


def test_a_file_tells_how_much_of_it_was_read(tmp_path):
    file = tick_file(lean_zip(tmp_path, many(50_000)))
    assert file.size == file.path.stat().st_size
    seen = [file.read for n, _ in enumerate(file.rows()) if n % 5000 == 0]
    assert seen == sorted(seen)
    assert 0 < seen[0] < file.size
    assert file.read == file.size


TIMES = st.lists(st.integers(0, 600), min_size=1, max_size=30).map(sorted)


@settings(max_examples=50, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=5), st.randoms())
def test_merged_files_are_in_order_and_nothing_is_lost(tmp_path_factory, times, shuffled):
    """The result is that of sorting all ticks, and does not depend on the order of the files."""
    folder = tmp_path_factory.mktemp("merge")
    files = []
    for number, seconds in enumerate(times):
        rows = "".join(f"{second * 1000},1.38,1.39\n" for second in seconds)
        path = lean_zip(folder / str(number), rows)
        files.append(tick_file(path, source=f"source{number}"))
    ticks = list(merged(files))
    assert [tick.ts_event for tick in ticks] == sorted(DAY + second * SECOND for each in times for second in each)
    shuffled.shuffle(files)
    assert list(merged(files)) == ticks


def one_by_one(files: list[TickFile]) -> list:
    """What merging means, without blocks: of the files the one whose next row is due first, again and again."""
    rows, out = {}, []
    for number, file in enumerate(sorted(files, key=lambda file: (file.identity, str(file.path)))):
        due, rows[number] = file.start, []
        for row in file.rows():
            due = due if isinstance(row, BadRow) else max(due, row.ts_event)
            rows[number].append((due, row))
    while rows := {number: left for number, left in rows.items() if left}:
        number = min(rows, key=lambda number: (rows[number][0][0], number))
        out.append(rows[number].pop(0)[1])
    return out


LINES = st.lists(st.tuples(st.integers(0, 900), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=6), st.sampled_from([16, 40, 100, 1 << 14]), st.booleans())
def test_blocks_of_any_size_merge_as_row_by_row(tmp_path_factory, contents, block, in_order):
    """With late and bad rows, files that begin late, and rows of many files at the same time."""
    folder = tmp_path_factory.mktemp("merge")
    files = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "FIRST_BLOCK", block)
        patch.setattr(archive, "BLOCK", block)
        for number, rows in enumerate(contents):
            rows = sorted(rows) if in_order else rows
            lines = "".join(f"{second * 1000},1.38,1.39\n" if good else "bad\n" for second, good in rows)
            path = lean_zip(folder / str(number), f"{rows[0][0] * 1000},1,2\n{lines}")
            files.append(tick_file(path, source=f"source{number}"))
        found = list(merged(files))
        assert found == one_by_one(files)
    assert [row for batch in batches(files) for row in batch] == found


def test_a_tick_that_is_late_in_its_file_stays_late(tmp_path):
    one = tick_file(lean_zip(tmp_path / "1", "0,1,1\n60000,1,1\n30000,1,1\n90000,1,1\n"), source="one")
    two = tick_file(lean_zip(tmp_path / "2", "10000,1,1\n70000,1,1\n"), source="two")
    order = [(tick.source, (tick.ts_event - DAY) // SECOND) for tick in merged([two, one])]
    assert order == [("one", 0), ("two", 10), ("one", 60), ("one", 30), ("two", 70), ("one", 90)]


def test_files_of_later_days_are_not_open_yet(tmp_path):
    paths = [
        lean_zip(tmp_path, "0,1,1\n1,1,1\n", f"2014050{day}_quote.zip", f"2014050{day}_eurusd_tick_quote.csv")
        for day in range(1, 8)
    ]
    files = [tick_file(path) for path in reversed(paths)]
    ticks = merged(files)
    next(ticks)
    for path in paths[1:]:
        path.unlink()
    assert [type(row) for row in ticks] == [Quote, *[BadRow] * 6]


# ---- recorded data -------------------------------------------------------------------------------------


def days(broker: str, symbol: str, kind: str = "tick") -> list[Path]:
    return sorted((DATA / "lean/forex" / broker / kind / symbol.lower()).glob("*_quote.zip"))


def recorded(broker: str, symbol: str, **asked) -> list[TickFile]:
    return [tick_file(path, broker, symbol, **asked) for path in days(broker, symbol)]


@real
@pytest.mark.parametrize("broker", ["fxcm", "oanda"])
@pytest.mark.parametrize("symbol", ["EURUSD", "NZDUSD"])
def test_recorded_lean_days_are_read_to_the_last_row(broker, symbol):
    for file in recorded(broker, symbol):
        with zipfile.ZipFile(file.path) as packed:
            lines = packed.read(packed.namelist()[0]).decode().split()
        ticks, bad = split(file)
        assert (len(ticks), bad) == (len(lines), [])
        _, bid, ask = lines[-1].split(",")
        assert (f"{ticks[-1].bid / 1e5:.5f}", f"{ticks[-1].ask / 1e5:.5f}") == (f"{bid:0<7}", f"{ask:0<7}")


@real
def test_recorded_fxcm_is_strictly_in_order_and_crossed_and_oanda_is_neither():
    fxcm = [tick for file in recorded("fxcm", "EURUSD") for tick in file.rows()]
    oanda = [tick for file in recorded("oanda", "EURUSD") for tick in file.rows()]
    assert all(one.ts_event < two.ts_event for one, two in pairwise(fxcm))
    assert sum(tick.bid > tick.ask for tick in fxcm) > len(fxcm) // 20
    assert all(one.ts_event <= two.ts_event for one, two in pairwise(oanda))
    assert not any(tick.bid > tick.ask for tick in oanda)


@real
def test_the_recorded_weekend_is_where_it_should_be():
    """INDEX.md: OANDA is silent for 48.0005 h, Friday 20:59:58 to Sunday 21:00:00 UTC."""
    times = [tick.ts_event for file in recorded("oanda", "EURUSD") for tick in file.rows()]
    longest = max(later - earlier for earlier, later in pairwise(times))
    assert round(longest / SECOND / 3600, 4) == 48.0005


@real
def test_the_payrolls_burst_has_the_counted_ticks():
    """INDEX.md: within 10 s of 2014-05-02 12:30 UTC 1,208 ticks of OANDA and 580 of FXCM."""
    noon = 1_399_033_800 * SECOND
    counts = Counter(
        tick.source
        for broker in ("fxcm", "oanda")
        for file in recorded(broker, "EURUSD")
        for tick in file.rows()
        if abs(tick.ts_event - noon) <= 10 * SECOND
    )
    assert counts == {"oanda": 1208, "fxcm": 580}


@real
@pytest.mark.parametrize(("zone", "low", "high"), [("", 0, 0.01), ("UTC", 0.8, 1)])
def test_the_two_brokers_agree_only_in_the_right_time_zone(zone, low, high):
    """At FXCM's ticks, with a price of OANDA younger than 5 s: how often is one's bid above the other's ask?"""
    crossed = compared = 0
    oanda = None
    for tick in merged(recorded("fxcm", "EURUSD", timezone=zone) + recorded("oanda", "EURUSD")):
        if tick.source == "oanda":
            oanda = tick
        elif oanda and tick.ts_event - oanda.ts_event < 5 * SECOND:
            compared += 1
            crossed += tick.bid > oanda.ask or oanda.bid > tick.ask
    assert compared > 10_000
    assert low <= crossed / compared <= high


@real
def test_recorded_minute_bars_are_refused():
    with pytest.raises(ArchiveError, match="minute bars, not ticks"):
        tick_file(days("fxcm", "EURUSD", "minute")[0], "fxcm")


@real
def test_recorded_bi5_hours_have_the_counted_ticks():
    """INDEX.md: 58,953 ticks of 2012-12-03, none crossed, none at the same millisecond; 4,413 in 12h."""
    paths = (DATA / "dukascopy/bi5_2012").rglob("*.bi5")
    files = [tick_file(path, "dukascopy", "GBPJPY") for path in paths]
    ticks = list(merged(files))
    assert len(ticks) == 58_953
    assert all(one.ts_event < two.ts_event for one, two in pairwise(ticks))
    assert all(0 < tick.bid < tick.ask for tick in ticks)
    midnight = 1_354_492_800 * SECOND
    assert ticks[0] == Quote(
        "GBPJPY", "dukascopy", midnight + 1_883_000_000, midnight + 1_883_000_000, 132141, 132158, 1_130_000, 1_500_000
    )
    noon = midnight + 12 * 3600 * SECOND
    assert sum(noon <= tick.ts_event < noon + 3600 * SECOND for tick in ticks) == 4_413


@real
def test_the_recorded_truefx_sample_has_the_counted_ticks():
    file = tick_file(DATA / "nautilus/truefx/usdjpy-ticks.csv", "truefx", "USDJPY")
    ticks, bad = split(file)
    assert (len(ticks), bad, file.format) == (1000, [], "csv")
    at = 1_357_077_600_295_000_000
    assert ticks[0] == Quote("USDJPY", "truefx", at, at, 86655, 86728)
    assert sorted({tick.ask - tick.bid for tick in ticks})[0] == 0  # once locked, never crossed
    assert max(tick.ask - tick.bid for tick in ticks) == 73


def test_lean_trades_are_trades(tmp_path):
    path = lean_zip(tmp_path, "0,1.38,2\n", "20140501_trade.zip", "20140501_eurusd_tick_trade.csv")
    assert list(tick_file(path).rows()) == [Trade("EURUSD", "oanda", DAY, DAY, 138000, 2)]
