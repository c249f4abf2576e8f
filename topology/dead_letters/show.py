"""Letters as people and programs read them: tables and JSON. No I/O."""

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.flags import DEAD_LETTER_REASONS
from schemas.topics import RAW, named
from topology.dead_letters.decode import Reading, dump
from topology.dead_letters.letter import Letter
from topology.dead_letters.topic import Box, Cut, Sent
from topology.status_view import when

ERROR_SHOWN: Final = 60
REFUSED_SHOWN: Final = 20


def as_dict(letter: Letter, box: Box) -> dict[str, Any]:
    """A letter as JSON has it; the time in ns, key and value in base64 and, where they are text, as that."""
    receipt = box.receipts.get(letter.place)
    return {
        "id": letter.id,
        "written": letter.written,
        "reason": letter.reason,
        "error": letter.error,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": _text(letter.key),
        "symbol": letter.symbol,
        "bytes": len(letter.value or b""),
        "value": None if letter.value is None else base64.b64encode(letter.value).decode(),
        "cut": letter.cut,
        "retries": letter.retries,
        "sent_back": receipt is not None,
        "headers": {name: value.decode(errors="replace") for name, value in letter.headers},
        **letter.more,
    }


def list_json(run: str, box: Box, letters: Sequence[Letter], limit: int) -> str:
    """The newest letters, and how many there are for each reason."""
    shown = [as_dict(each, box) for each in newest(letters, limit)]
    answer = {"run": run, "count": len(letters), "reasons": reasons(letters), "letters": shown}
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()


def newest(letters: Sequence[Letter], limit: int) -> list[Letter]:
    """The last ones written, the newest last."""
    return sorted(letters, key=lambda each: (each.written, each.place))[-limit:]


def reasons(letters: Sequence[Letter]) -> dict[str, int]:
    """How many for each reason, the most frequent first."""
    return dict(Counter(each.reason or "none" for each in letters).most_common())


def list_table(console: Console, box: Box, letters: Sequence[Letter], limit: int) -> None:
    """The newest letters in lines, then the counts."""
    table = Table(box=None, pad_edge=False)
    for column in ("id", "written (UTC)", "reason", "where it stood", "key", "again", "error"):
        table.add_column(column, no_wrap=column != "error")
    for each in newest(letters, limit):
        back = " sent back" if each.place in box.receipts else ""
        table.add_row(
            each.id,
            when(each.written),
            each.reason,
            _place(each),
            Text(_text(each.key)[:40]),
            f"{each.retries or ''}{back}".strip(),
            Text(_line(each.error)[:ERROR_SHOWN]),
        )
    if letters:
        console.print(table)
        console.print()
    if len(letters) > limit:
        console.print(f"the newest {limit} of {len(letters):,}: --limit shows more", style="dim")
    for reason, count in reasons(letters).items():
        console.print(f"{count:>9,} {reason}: {DEAD_LETTER_REASONS.get(reason, 'not one of ours')}", highlight=False)
    if not letters:
        console.print("no dead letters", highlight=False)


def letter_text(console: Console, letter: Letter, box: Box, reading: Reading, every_byte: bool) -> None:
    """All about one letter."""
    receipt = box.receipts.get(letter.place)
    lines = {
        "letter": f"{letter.id}, written {when(letter.written)} UTC",
        "reason": f"{letter.reason}: {DEAD_LETTER_REASONS.get(letter.reason, 'not one of ours')}",
        "error": letter.error,
        "stood at": _place(letter),
        "key": "none" if letter.key is None else _text(letter.key),
        "sent back": "no" if receipt is None else f"yes: receipt {letter.place[0]}:{receipt}",
        "before": f"had been sent back {letter.retries} times" if letter.retries else "",
        "cut": f"{letter.cut:,} bytes are missing: it was too large" if letter.cut else "",
        "headers": ", ".join(f"{name}={value.decode(errors='replace')}" for name, value in letter.headers),
        **letter.more,
        "value": f"{len(letter.value or b''):,} bytes; framing: {reading.framing}",
        "schema": f"{reading.schema} ({reading.version})" if reading.schema else "",
    }
    for name, text in lines.items():
        if text:
            console.print(Text.assemble((f"{name:<10}", "bold"), text))
    for name, value in reading.fields.items():
        console.print(Text(f"          {name} = {value!r}"))
    if reading.error:
        console.print(Text.assemble(("broken    ", "bold"), (f"at byte {reading.at}: {reading.error}", "red")))
    value = letter.value or b""
    for line in dump(value, reading.at if reading.error else -1, len(value) if every_byte else 512):
        console.print(Text(line, "dim"), soft_wrap=True)


def letter_json(letter: Letter, box: Box, reading: Reading) -> str:
    """All about one letter; fields that are no text nor number as their repr."""
    answer = {**as_dict(letter, box), "read": msgspec.structs.asdict(reading)}
    return msgspec.json.format(msgspec.json.encode(answer, enc_hook=repr), indent=2).decode()


def sent_text(console: Console, run: str, sent: Sent, dry_run: bool) -> None:
    """What came of `retry`."""
    would = "would be " if dry_run else ""
    raw = named(RAW.name, run)
    by_topic = Counter(raw if each.topic == raw else f"the sink, from {each.topic}" for each in sent.letters)
    console.print(f"{len(sent.letters):,} letters {would}sent back", highlight=False)
    for topic, count in sorted(by_topic.items()):
        console.print(f"{count:>9,} to {topic}", highlight=False)
    if sent.before:
        console.print(f"{sent.before:,} had been sent back before: nothing to do", highlight=False)
    _refused(console, sent.refused)


def _refused(console: Console, refused: Sequence[tuple[Letter, str]]) -> None:
    for letter, why in refused[:REFUSED_SHOWN]:
        console.print(Text.assemble(("left   ", "yellow"), f"{letter.id} {letter.reason}: {why}"))
    if len(refused) > REFUSED_SHOWN:
        console.print(f"and {len(refused) - REFUSED_SHOWN:,} more were left", style="dim")


def cuts_text(console: Console, cuts: Sequence[Cut]) -> None:
    """What `purge` can do."""
    for each in cuts:
        if each.letters or each.left:
            console.print(
                f"partition {each.number}: {each.letters:,} letters before offset {each.end}", highlight=False
            )
    left = sum(each.left for each in cuts)
    if left:
        console.print(
            f"{left:,} more stand behind one that stays, or wait for the sink: Kafka deletes from the beginning only. "
            "They go with the topic's retention, or once those before them are sent back or purged.",
            highlight=False,
        )


def _place(letter: Letter) -> str:
    if letter.topic:
        return f"{letter.topic} {letter.partition}:{letter.offset}"
    return ", ".join(f"{name} {value}" for name, value in letter.more.items()) or "not said"


def _text(value: bytes | None) -> str:
    return _line((value or b"").decode(errors="replace"))


def _line(text: str) -> str:
    return " ".join(text.split())
