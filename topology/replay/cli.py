"""The commands `tickloom replay …`: what may be typed. Only click is imported at the top."""

import sys
from pathlib import Path
from typing import Any

import click

from topology.explain import explain, known_errors
from topology.typed import Moment, settings_for


class Place(Moment):
    """A time at which Kafka got a record, or an offset in every partition."""

    name = "time|offset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it; eight digits are a date."""
        text = str(value)
        return int(text) if text.isdecimal() and len(text) != 8 else super().convert(value, param, ctx)


@click.group(invoke_without_command=True, short_help="once more, by other rules")
@click.option("--from", "since", type=Place(), help="Where to begin. [default: the first record there is]")
@click.option("--to", "until", type=Place(), help="Where to end, not included. [default: the last record there is now]")
@click.option("--symbols", default="", metavar="EURUSD,…", help="Only these. [default: all]")
@click.option("--config", type=click.Path(path_type=Path, exists=True), help="Another instruments.yaml.")
@click.option("--run", default="", help="Its name. [default: one made of all of this]")
@click.option("--rate", type=click.FloatRange(min=1), help="Records a second at most. [default: no limit]")
@click.option("--nice", type=click.IntRange(0, 19), default=10, show_default=True, help="How far to stand back.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="So many processes.")
@click.option("--times", type=click.IntRange(min=1), default=1, show_default=True, help="Partitions for each live one.")
@click.option("--warm-up", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Minutes before --from.")
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    symbols: str,
    run: str,
    rate: float | None,
    nice: int,
    workers: int,
    warm_up: float,
    **how: Any,
) -> None:
    """Send what market.raw holds through the stages once more, by other rules or code, beside the live system.

    Then `compare` says what would have come out otherwise, `promote` puts it in the place of what did, and `drop`
    removes the replay. The same command goes on where it was interrupted.
    """
    if ctx.invoked_subcommand:
        return
    settings = settings_for()
    from topology.replay.job import Asked, run_replay

    names = tuple(name.strip() for name in symbols.split(",") if name.strip())
    asked = Asked(symbols=names, warm_up_s=60 * warm_up, **how)
    sys.exit(run_replay(settings, asked, run, rate=rate or 0.0, workers=workers, nice=nice))


@replay.command("compare")
@click.argument("name")
@click.option(
    "--format", "shape", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print it."
)
@click.option(
    "--topic",
    "kinds",
    multiple=True,
    type=click.Choice(["tick", "rejected", "best", "candle", "gap"]),
    help="Only this; again for more. [default: all]",
)
@click.option(
    "--first", type=click.IntRange(min=0), default=5, show_default=True, help="Shown of each symbol and topic."
)
def replay_compare(name: str, shape: str, kinds: tuple[str, ...], first: int) -> None:
    """What differs from live. Exit code 0: nothing, 1: something, 2: error."""
    from topology.replay.commands import compare

    try:
        sys.exit(compare(settings_for(broker=True, database=True), name, shape, kinds, first))
    except tuple(known_errors()) as error:
        click.echo(f"Error: {explain(error)}", err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001  a defect of ours must not be taken for a difference
        import traceback

        traceback.print_exc()
        sys.exit(2)


@replay.command("promote")
@click.argument("name")
@click.option("--delete-missing", is_flag=True, help="Also delete what only the live system has.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay_promote(name: str, delete_missing: bool, yes: bool) -> None:
    """Write its candles, gaps and refusals into the live topics and tables, once it has asked."""
    settings = settings_for(broker=True, database=True)
    from topology.replay.commands import promote

    sys.exit(promote(settings, name, delete_missing, lambda text: yes or click.confirm(text)))


@replay.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay_drop(name: str, yes: bool) -> None:
    """Remove its topics, groups, files and rows."""
    settings = settings_for(broker=True, database=True)
    from topology.replay.drop import drop

    if not yes:
        click.confirm(f"Remove everything of replay {name}?", abort=True)
    for line in drop(settings, name):
        click.echo(line)


@replay.command("list")
def replay_list() -> None:
    """The replays that are there."""
    from topology.replay.commands import show_all

    show_all(settings_for(database=True))
