"""`tickloom dead-letter list`, `show`, `retry` and `purge`: look up, do, print."""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from schemas.flags import DEAD_LETTER_REASONS
from schemas.instrument import ConfigError
from schemas.registry import schema_of
from topology.config import Settings
from topology.dead_letters import decode, show, topic
from topology.dead_letters.letter import Letter
from topology.running import plain_console
from topology.typed import Moment

NAMES: Final = ("id", "reason", "symbol", "topic", "since")


class Where(msgspec.Struct, frozen=True):
    """Which letters are meant: those to which all of this applies; what is empty applies to every one."""

    ids: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    symbol: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()
    since: int = 0  # ns

    def fits(self, letter: Letter, run: str) -> bool:
        """Whether a letter is meant. A topic may be named without its run."""
        names = (letter.topic, letter.topic.removeprefix(f"{run}.") if run else letter.topic)
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.reason or letter.reason in self.reason)
            and (not self.symbol or letter.symbol in self.symbol)
            and (not self.topic or any(name in self.topic for name in names))
            and letter.written >= self.since
        )


def where(
    ids: Sequence[str] = (),
    pairs: Sequence[str] = (),
    since: datetime | None = None,
    **named: Sequence[str],
) -> Where:
    """Read what was typed; ``pairs`` are NAME=VALUE. Raises ConfigError, and BadParameter as click does."""
    found: dict[str, list[str]] = {"id": [*ids], "since": []}
    found |= {name: [*named.get(name, ())] for name in ("reason", "symbol", "topic")}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in NAMES:
            raise ConfigError(f"--where {pair}: NAME=VALUE is expected; the names are {', '.join(NAMES)}")
        found[name].append(value)
    for each in found["reason"]:
        if each not in DEAD_LETTER_REASONS:
            raise ConfigError(f"{each} is no reason; those are {', '.join(DEAD_LETTER_REASONS)}")
    for each in found["id"]:
        partition, colon, offset = each.partition(":")
        if not (colon and partition.isdecimal() and offset.isdecimal()):
            raise ConfigError(
                f"{each!r} is no id as `tickloom dead-letter list` shows it: partition:offset, as in 3:17"
            )
    texts = {name: tuple(found[name]) for name in ("reason", "symbol", "topic")}
    moments = [since] if since else []
    moments += [Moment().convert(text, None, None) for text in found["since"]]
    since_ns = max((round(each.timestamp() * 1_000_000) * 1_000 for each in moments), default=0)
    return Where(tuple(found["id"]), **texts, since=since_ns)


def list_(settings: Settings, meant: Where, *, as_json: bool, limit: int, everything: bool) -> None:
    """Print the letters that are open, or all of them."""
    box = topic.read(settings)
    letters = [each for each in (box.letters if everything else box.open) if meant.fits(each, settings.run)]
    if as_json:
        sys.stdout.write(show.list_json(settings.run, box, letters, limit) + "\n")
    else:
        show.list_table(plain_console(), box, letters, limit)


def show_one(settings: Settings, meant: Where, *, as_json: bool, every_byte: bool) -> None:
    """Print one letter. Raises ConfigError where there is none."""
    box = topic.read(settings)
    letter = next((each for each in box.letters if each.id in meant.ids), None)
    if letter is None:
        raise ConfigError(
            f"there is no dead letter {meant.ids[0]}: it may have been purged; `tickloom dead-letter list`"
        )
    url = settings.schema_registry_url
    reading = decode.read(letter.value, schema_of(url) if url else None)
    if as_json:
        sys.stdout.write(show.letter_json(letter, box, reading) + "\n")
    else:
        show.letter_text(plain_console(), letter, box, reading, every_byte)


def retry(settings: Settings, meant: Where, *, limit: int, dry_run: bool) -> int:
    """Send letters back; 1 where some that were asked for could not be."""
    sent = topic.retry(settings, lambda each: meant.fits(each, settings.run), limit=limit, dry_run=dry_run)
    show.sent_text(plain_console(), settings.run, sent, dry_run)
    return 1 if sent.refused else 0


def purge(settings: Settings, meant: Where, confirm: Callable[[str], Any]) -> None:
    """Delete letters; ``confirm`` is asked first."""
    cuts = topic.purgeable(settings, lambda each: meant.fits(each, settings.run))
    show.cuts_text(plain_console(), cuts)
    count = sum(each.letters for each in cuts)
    if count:
        confirm(f"Delete {count:,} letters for good?")
        topic.purge(settings, cuts)
    plain_console().print(f"{count:,} letters deleted", highlight=False)
