"""What is known of replays: which part of whose log, under which rules. Kept in the table ``replays``.

It is written before the first record is copied and never changed after, so that a replay that goes on, a comparison
and a promotion all speak of the same range and rules, on whichever machine they run.
"""

import hashlib
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from psycopg.types.json import Jsonb

from schemas import instrument
from schemas.instrument import ConfigError, Instrument
from schemas.topics import RAW, named
from topology import admin
from topology.storage.database import Connection

FIELDS: Final = "run, base, asked, stretches, partitions, symbols, rules_version, rules, finished_at IS NOT NULL"


class Stretch(msgspec.Struct, frozen=True):
    """The part of one partition of market.raw. Before ``start`` it only warms the stages up and is not compared."""

    partition: int
    copied_from: int
    start: int
    end: int  # not included


class Replay(msgspec.Struct, frozen=True):
    """One replay."""

    run: str
    base: str
    asked: dict[str, Any]
    stretches: list[Stretch]
    partitions: int  # of its topics: those of the base, or a multiple
    symbols: list[str]  # empty: all
    rules_version: str
    rules: str  # the text of its instruments.yaml
    finished: bool = False

    @property
    def raw(self) -> str:
        """Its own market.raw."""
        return named(RAW.name, self.run)

    @property
    def base_raw(self) -> str:
        """The market.raw that it reprocesses."""
        return named(RAW.name, self.base)

    def copies_of(self, partition: int) -> list[int]:
        """The replay's partitions that hold what one of the base's holds."""
        return list(range(partition, self.partitions, len(self.stretches)))

    def wants(self, symbol: str) -> bool:
        """Whether it is one of the symbols."""
        return not self.symbols or symbol in self.symbols


def rules_of(path: Path | None) -> tuple[str, str]:
    """The text of an instruments file, and its version together with that of the code. Raises ConfigError."""
    path = path or instrument.DEFAULT
    instrument.load(path)
    text = path.read_text()
    return text, f"{hashlib.sha256(text.encode()).hexdigest()[:12]} tickloom-{version('tickloom')}"


def instruments_of(replay: Replay) -> dict[str, Instrument]:
    """Its rules."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(replay.rules)
        file.flush()
        return instrument.load(Path(file.name))


def full_name(name: str) -> str:
    """The run of a replay, by its name with or without what those begin with."""
    return name if name.startswith(admin.REPLAY) else admin.REPLAY + name


def begin(connection: Connection, replay: Replay) -> None:
    """Note a replay before it starts."""
    connection.execute(
        "INSERT INTO replays (run, base, asked, stretches, partitions, symbols, rules_version, rules) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(replay.run, replay.base, Jsonb(replay.asked), Jsonb(msgspec.to_builtins(replay.stretches))),
            *(replay.partitions, replay.symbols, replay.rules_version, replay.rules),
        ],
    )


def finish(connection: Connection, run: str) -> None:
    """Note that everything has been processed and stored."""
    connection.execute("UPDATE replays SET finished_at = coalesce(finished_at, now()) WHERE run = %s", [run])


def find(connection: Connection, run: str) -> Replay | None:
    """The replay of a run."""
    row = connection.execute(f"SELECT {FIELDS} FROM replays WHERE run = %s", [run]).fetchone()
    return _replay(row) if row else None


def known(connection: Connection, name: str) -> Replay:
    """The replay that a user names. Raises ConfigError where there is none."""
    replay = find(connection, full_name(name))
    if replay is None:
        there = ", ".join(each.run for each in every(connection)) or "none"
        raise ConfigError(f"there is no replay {full_name(name)}; there are: {there}")
    return replay


def every(connection: Connection) -> list[Replay]:
    """All replays, the oldest first."""
    return [_replay(row) for row in connection.execute(f"SELECT {FIELDS} FROM replays ORDER BY started_at, run")]


def _replay(row: Any) -> Replay:
    return msgspec.convert(dict(zip(Replay.__struct_fields__, row, strict=True)), Replay)
