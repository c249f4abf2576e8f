"""`tickloom replay compare` and `list`: look things up, compare, print."""

import sys
from collections.abc import Sequence

from schemas import instrument
from schemas.instrument import Instrument
from schemas.registry import codec_for
from topology.config import Settings
from topology.replay import ledger, show
from topology.replay.compare import Comparison
from topology.replay.ledger import Replay
from topology.running import plain_console
from topology.storage import database


def compare(settings: Settings, name: str, shape: str, kinds: Sequence[str], limit: int) -> int:
    """Compare and print; 1 where something differs. Raises what `tickloom` explains."""
    with database.connect(settings.database) as connection:
        replay = ledger.known(connection, name)
    codec = codec_for(settings.schema_registry_url)
    instruments = instrument.load(settings.instruments)
    comparison = Comparison(settings.broker, replay, codec, longest_hold(replay, instruments))
    first = show.First(limit)
    comparison.run(first, [show.SHORT[kind] for kind in kinds or show.SHORT])
    shown = [show.shown(each, codec, instruments) for each in first.all()]
    if shape == "json":
        sys.stdout.write(show.as_json(replay, comparison, shown).decode() + "\n")
    else:
        show.as_text(plain_console(), replay, comparison, shown)
    return 1 if show.total(comparison) else 0


def longest_hold(replay: Replay, instruments: dict[str, Instrument]) -> int:
    """How long (ns) a tick may be held, by the rules of either run."""
    rules = [*instruments.values(), *ledger.instruments_of(replay).values()]
    return max(each.rules.hold_ns for each in rules)


def show_all(settings: Settings) -> None:
    """One line for each replay."""
    from rich.table import Table

    table = Table("run", "of", "records", "symbols", "rules", "state", box=None, pad_edge=False)
    with database.connect(settings.database) as connection:
        for each in ledger.every(connection):
            records = sum(stretch.end - stretch.start for stretch in each.stretches)
            symbols = ", ".join(each.symbols) or "all"
            state = "finished" if each.finished else "interrupted, or under way"
            table.add_row(each.run, each.base or "live", f"{records:,}", symbols, each.rules_version, state)
    plain_console().print(table)
