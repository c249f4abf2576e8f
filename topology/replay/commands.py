"""`tickloom replay compare`, `promote` and `list`: look things up, do it, print."""

import sys
from collections.abc import Callable, Sequence

from schemas import instrument
from schemas.instrument import ConfigError, Instrument
from schemas.registry import codec_for
from topology.config import Settings
from topology.replay import ledger, show
from topology.replay import promote as promotion
from topology.replay.compare import Comparison
from topology.replay.ledger import Replay
from topology.running import plain_console, stopping
from topology.storage import database


def compare(settings: Settings, name: str, shape: str, kinds: Sequence[str], limit: int) -> int:
    """Compare and print; 1 where something differs. Raises what `tickloom` explains."""
    with database.connect(settings.database) as connection:
        replay = ledger.known(connection, name)
    codec = codec_for(settings.schema_registry_url)
    instruments = instrument.load(settings.instruments)
    comparison = Comparison(settings.kafka, replay, codec, longest_hold(replay, instruments))
    first = show.First(limit)
    comparison.run(first, [show.SHORT[kind] for kind in kinds or show.SHORT])
    shown = [show.shown(each, codec, instruments) for each in first.all()]
    if shape == "json":
        sys.stdout.write(show.as_json(replay, comparison, shown).decode() + "\n")
    else:
        show.as_text(plain_console(), replay, comparison, shown)
    return 1 if show.total(comparison) else 0


def promote(settings: Settings, name: str, delete_missing: bool, confirm: Callable[[str], bool]) -> int:
    """Promote what differs, symbol by symbol; ``confirm`` is asked first. Raises what `tickloom` explains."""
    console = plain_console()
    codec = codec_for(settings.schema_registry_url)
    instruments = instrument.load(settings.instruments)
    try:
        with stopping(), database.connect(settings.database) as connection:
            replay = ledger.known(connection, name)
            promotion.check_scales(replay, instruments)

            def make() -> promotion.Plan:
                hold_ns = longest_hold(replay, instruments)
                plan = promotion.plan(settings.kafka, replay, codec, hold_ns, delete_missing)
                show.as_plan(console, replay, plan)
                if plan.changes and not confirm(f"Write this into {replay.base or 'the live system'}?"):
                    raise ConfigError("nothing was promoted")
                return plan

            under_way = promotion.Promotion.begin(connection, replay, delete_missing, make)
            left = under_way.left()
            if under_way.resumed:
                console.print(f"going on with promotion {under_way.number}: {len(left)} symbols left", highlight=False)
            producer = promotion.transactional(settings.kafka, replay.base)
            rows = promotion.Rows(connection, replay.base, instruments)
            later = promotion.overtaken(settings.kafka, replay) if left else set()
            for symbol in left:
                alone = under_way.promote(producer, codec, rows, symbol, later)
                note = f", left alone: {alone:,} (the live system has revised them since they were compared)"
                console.print(f"promoted {symbol}{note if alone else ''}", highlight=False)
            under_way.finish()
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/]: the same command goes on where it stopped")
        return 130
    return 0


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
