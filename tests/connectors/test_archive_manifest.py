"""Which files are meant: from arguments, patterns, folders and manifests; what cannot be meant says why."""

from pathlib import Path

import pytest

from connectors.archive import manifest
from connectors.archive.file import Asked
from schemas.instrument import ConfigError

SYMBOLS = {"EURUSD": 1, "NZDUSD": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1.zip", "a/2.zip", "a/deep/3.bi5", "a/notes.md", "a/.hidden.csv", "b/4.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def names(asked: list[Asked]) -> list[str]:
    return [each.path.name for each in asked]


def find(*entries: manifest.Entry) -> list[Asked]:
    return manifest.files(entries, SYMBOLS)


def entry(path: Path | str, source: str = "fxcm", symbol: str = "EURUSD", **more) -> manifest.Entry:
    return manifest.Entry(str(path), source, symbol, **more)


def test_a_path_is_a_file_a_pattern_or_a_folder(folder):
    assert names(find(entry(folder / "b/4.csv"))) == ["4.csv"]
    assert names(find(entry(folder / "a/*.zip"))) == ["1.zip", "2.zip"]
    assert names(find(entry(folder / "**/*.bi5"))) == ["3.bi5"]
    assert names(find(entry(folder / "a"))) == ["1.zip", "2.zip", "3.bi5"]


def test_a_name_with_brackets_is_a_file_when_there_is_one(folder):
    (folder / "b" / "[x].csv").write_text("")
    assert names(find(entry(folder / "b/[x].csv"))) == ["[x].csv"]


def test_a_file_that_is_named_twice_is_read_once_for_each_source(folder):
    both = find(entry(folder / "a/1.zip"), entry(folder / "a/*.zip"), entry(folder / "a/1.zip", "oanda"))
    assert [(each.path.name, each.source) for each in both] == [
        ("1.zip", "fxcm"),
        ("2.zip", "fxcm"),
        ("1.zip", "oanda"),
    ]


def test_a_manifest_says_where_whose_and_how(folder):
    path = folder / "all.yaml"
    path.write_text(
        "- {path: a/*.zip, source: fxcm, symbol: EURUSD, timezone: UTC-05}\n"
        "- {path: b/4.csv, source: oanda, symbol: NZDUSD, format: csv}\n"
    )
    assert manifest.files(manifest.read(path), SYMBOLS) == [
        Asked(folder / "a/1.zip", "fxcm", "EURUSD", timezone="UTC-05"),
        Asked(folder / "a/2.zip", "fxcm", "EURUSD", timezone="UTC-05"),
        Asked(folder / "b/4.csv", "oanda", "NZDUSD", "csv"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path: a", r"Expected `array`, got `object`; a line is - \{path"),
        ("- {path: a, source: fxcm}", "missing required field `symbol`"),
        ("- {path: a, source: fxcm, symbol: EURUSD, zone: UTC}", "unknown field `zone`"),
        ("- {path: [", "while parsing"),
        ("", "Expected `array`, got `null`"),
    ],
)
def test_a_wrong_manifest_says_where(tmp_path, text, reason):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason) as raised:
        manifest.read(tmp_path / "m.yaml")
    assert "\n" not in str(raised.value)


def test_a_manifest_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the manifest"):
        manifest.read(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"symbol": "EUR/USD"}, "'EUR/USD' is not a known symbol: did you mean EURUSD?"),
        ({"symbol": "ABC"}, "add it to your instruments"),
        ({"source": "best"}, "'best' is no name of a source"),
        ({"source": "a|b"}, "no name of a source"),
        ({"source": ""}, "no name of a source"),
        ({"format": "xls"}, "'xls' is no format: one of lean, histdata, truefx, dukascopy, csv"),
        ({"hour": "2012-12-03T07", "path": "a"}, "3 files cannot all be of the hour"),
        ({"path": "none/*.zip"}, "no such file"),
        ({"path": "none.zip"}, "no such file"),
    ],
)
def test_what_cannot_be_meant_says_why(folder, monkeypatch, changed, reason):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=reason.replace("?", r"\?")):
        find(manifest.Entry(**{"path": "a/1.zip", "source": "fxcm", "symbol": "EURUSD"} | changed))


def test_one_source_and_symbol_serve_all_paths_or_each_has_its_own():
    paths = [Path("a"), Path("b")]
    shared = manifest.from_arguments(paths, ["fxcm"], ["EURUSD"], timezone="UTC-05")
    assert shared == [manifest.Entry(name, "fxcm", "EURUSD", timezone="UTC-05") for name in "ab"]
    own = manifest.from_arguments(paths, ["fxcm", "oanda"], ["EURUSD"])
    assert own == [manifest.Entry("a", "fxcm", "EURUSD"), manifest.Entry("b", "oanda", "EURUSD")]
    for sources, symbols in ([], ["EURUSD"]), (["a", "b", "c"], ["EURUSD"]), (["a"], []):
        with pytest.raises(ConfigError, match="give one, or one for each path"):
            manifest.from_arguments(paths, sources, symbols)
