"""Which files to import, from which source, of which symbol: from the command line, or a manifest.

A manifest is a YAML list, its paths relative to its own folder:

    - {path: fxcm/tick/eurusd/*.zip, source: fxcm, symbol: EURUSD, timezone: UTC-05}
    - {path: oanda.csv, source: oanda, symbol: EURUSD}

A path is a file, a pattern, or a folder (every file in it and below that ends in .zip, .csv, .txt, .gz or
.bi5). Optional: format, timezone, decimals and hour (of Dukascopy files).
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path

import msgspec

from connectors.archive.file import FORMATS, SUFFIXES, Asked
from schemas.instrument import ConfigError

SOURCE = re.compile(r"[A-Za-z0-9_.-]{1,32}", re.ASCII)
COMPOSITE = "best"  # the source name of the consolidated price


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a manifest."""

    path: str
    source: str
    symbol: str
    format: str = ""
    timezone: str = ""
    decimals: int | None = None
    hour: str = ""


def read(manifest: Path) -> list[Entry]:
    """Read a manifest. Raises ConfigError with the place that is wrong."""
    import yaml  # 20 ms that only an import with a manifest should pay

    try:
        entries = msgspec.convert(yaml.safe_load(manifest.read_text()), list[Entry])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the manifest: {error}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"{manifest}: {' '.join(str(error).split())}; a line is - {{path: ..., source: ..., symbol: ...}}"
        ) from error
    return [msgspec.structs.replace(entry, path=str(manifest.parent / entry.path)) for entry in entries]


def from_arguments(
    paths: Sequence[Path],
    sources: Sequence[str],
    symbols: Sequence[str],
    *,
    format: str = "",
    timezone: str = "",
    decimals: int | None = None,
    hour: str = "",
) -> list[Entry]:
    """Take a source and a symbol for all paths, or one of each for each path. Raises ConfigError."""
    for what, given in (("--source", sources), ("--symbol", symbols)):
        if len(given) not in (1, len(paths)):
            raise ConfigError(f"{len(given)} times {what} for {len(paths)} paths: give one, or one for each path")
    pairs = zip(
        paths,
        sources if len(sources) > 1 else [*sources] * len(paths),
        symbols if len(symbols) > 1 else [*symbols] * len(paths),
        strict=True,
    )
    return [Entry(str(path), source, symbol, format, timezone, decimals, hour) for path, source, symbol in pairs]


def files(entries: Iterable[Entry], symbols: Mapping[str, object]) -> list[Asked]:
    """Find the files. Raises ConfigError for what cannot be imported under these names."""
    found: dict[tuple[Path, str, str], Asked] = {}
    for entry in entries:
        _check(entry, symbols)
        paths = _expand(entry.path)
        if not paths:
            raise ConfigError(f"{entry.path}: no such file")
        if entry.hour and len(paths) > 1:
            raise ConfigError(f"{entry.path}: {len(paths)} files cannot all be of the hour {entry.hour}")
        for path in paths:
            asked = Asked(path, entry.source, entry.symbol, entry.format, entry.timezone, entry.decimals, entry.hour)
            found.setdefault((path.resolve(), entry.source, entry.symbol), asked)
    return list(found.values())


def _check(entry: Entry, symbols: Mapping[str, object]) -> None:
    if entry.symbol not in symbols:
        near = difflib.get_close_matches(entry.symbol.upper().replace("/", "").replace("_", ""), symbols, n=1)
        meant = f": did you mean {near[0]}?" if near else ": add it to your instruments (TICKLOOM_INSTRUMENTS)"
        raise ConfigError(f"{entry.symbol!r} is not a known symbol{meant}")
    if not SOURCE.fullmatch(entry.source) or entry.source == COMPOSITE:
        raise ConfigError(f"{entry.source!r} is no name of a source: take letters, digits, _ . - (not {COMPOSITE!r})")
    if entry.format and entry.format not in FORMATS:
        raise ConfigError(f"{entry.format!r} is no format: one of {', '.join(FORMATS)}")


def _expand(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.is_dir():
        inside = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
        return sorted(each for each in inside if not each.name.startswith("."))
    if path.exists() or not has_magic(text):
        return [path] if path.exists() else []
    return sorted(Path(each) for each in glob(str(path), recursive=True))
