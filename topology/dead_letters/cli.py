"""The commands `tickloom dead-letter …`: what may be typed. Only click is imported at the top."""

import sys
from collections.abc import Callable
from typing import Any

import click

from topology.typed import Moment, settings_for

Command = Callable[..., None]


def _filters(command: Command) -> Command:
    """The options that say which letters are meant."""
    for option in (
        click.option("--where", "pairs", multiple=True, metavar="NAME=VALUE", help="The same: reason=, symbol=, …"),
        click.option("--since", type=Moment(), help="Written then or later, as in 2024-01-05T08:00; UTC."),
        click.option("--topic", multiple=True, help="Where the record stood, as in market.raw."),
        click.option("--symbol", multiple=True, help="The first part of its key."),
        click.option("--reason", multiple=True, help="As in UNKNOWN_SYMBOL."),
    ):
        command = option(command)
    return command


@click.group("dead-letter", short_help="what could not be read or stored")
def dead_letter() -> None:
    """Records that could not be read, applied or stored: look at them, put right what was wrong, send them back."""


@dead_letter.command("list")
@_filters
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="The newest so many.")
@click.option("--all", "everything", is_flag=True, help="Also those that were sent back.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(limit: int, everything: bool, as_json: bool, **typed: Any) -> None:
    """The letters that are open, the newest last, and how many there are for each reason."""
    from topology.dead_letters import commands

    settings = settings_for(broker=True)
    commands.list_(settings, commands.where(**typed), as_json=as_json, limit=limit, everything=everything)


@dead_letter.command("show")
@click.argument("id")
@click.option("--bytes", "every_byte", is_flag=True, help="Every byte, not the first 512.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(id: str, every_byte: bool, as_json: bool) -> None:
    """What failed, why, where it stood, and its bytes, read as far as they go."""
    from topology.dead_letters import commands

    commands.show_one(settings_for(broker=True), commands.where(ids=(id,)), as_json=as_json, every_byte=every_byte)


@dead_letter.command("retry")
@click.argument("ids", nargs=-1)
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=3, show_default=True, help="Of times for one record.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def retry(limit: int, dry_run: bool, **typed: Any) -> None:
    """Send letters back to where they came from, each once: all, or those meant.

    Records of market.raw go to its end; what the sink could not store goes to the sink again. Exit code 1 where one
    could not be sent.
    """
    from topology.dead_letters import commands

    sys.exit(commands.retry(settings_for(broker=True), commands.where(**typed), limit=limit, dry_run=dry_run))


@dead_letter.command("purge")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(yes: bool, **typed: Any) -> None:
    """Delete letters for good: all, or those meant, and all that were sent back.

    Kafka deletes from the beginning of a partition only, so a letter stays while one that is not meant stands before
    it.
    """
    from topology.dead_letters import commands

    def confirm(question: str) -> None:
        if not yes:
            click.confirm(question, abort=True)

    commands.purge(settings_for(broker=True), commands.where(**typed), confirm)
