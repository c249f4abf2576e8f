"""What stands in market.dead_letter: how a letter is written and read, and what says that it was sent back.

    letter    key and value as they came; headers reason and error; topic, partition and offset where the record stood;
              `original.NAME` for each header that it had; `cut`, the bytes left out of one that was too large
    receipt   of a letter that went back: header `retried`, the letter's offset in the same partition. To market.raw:
              its record went there in the same transaction, and the receipt has no value. To the sink: the receipt is
              the record itself, headers as in the letter, for no topic of outputs may have it twice.

A receipt stands behind its letter in the same partition, so retention never takes the receipt first. A record that was
sent back carries how often in the header `retry`; should it fail again, that is in its next letter.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from schemas.topics import DEAD_LETTER

ROOM: Final = 1_000_000  # bytes of key, value and own headers: Kafka takes 1,048,588 with everything
KEY_ROOM: Final = 50_000  # where that is too little
VALUE_ROOM: Final = 900_000
ERROR_LENGTH: Final = 2_000

RETRY: Final = "retry"  # header of a record that was sent back: how often, decimal text
RETRIED: Final = "retried"  # header of a receipt
KEPT: Final = "original."
_KNOWN: Final = ("reason", "error", "topic", "partition", "offset", "cut")

Headers = list[tuple[str, bytes]]


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. Where it does not say whence it came, ``topic`` is empty and the numbers are -1."""

    place: tuple[int, int]  # its own partition and offset
    written: int  # ns
    key: bytes | None
    value: bytes | None
    reason: str
    error: str
    topic: str
    partition: int
    offset: int
    headers: Headers  # that the record had
    more: dict[str, str]  # whatever else the letter says
    cut: int  # bytes left out

    @property
    def id(self) -> str:
        """What a person types: partition:offset."""
        return f"{self.place[0]}:{self.place[1]}"

    @property
    def symbol(self) -> str:
        """The first part of the key."""
        return _text(self.key).partition("|")[0]

    @property
    def retries(self) -> int:
        """How often the record had been sent back before it failed this time."""
        return max(0, _number(dict(self.headers).get(RETRY), 0))


def write(record: Any, reason: str, error: str) -> tuple[bytes | None, bytes | None, Headers]:
    """Make the letter of a record (aiokafka's): key, value, headers. Always small enough to be written."""
    key: bytes | None = record.key
    value: bytes | None = record.value
    if record.topic.endswith(DEAD_LETTER.name):  # a receipt, of which the sink made nothing: it stands where it stood
        kept = [each for each in record.headers if each[0].startswith(KEPT)]
        place = [each for each in record.headers if each[0] in ("topic", "partition", "offset")]
    else:
        kept = [(KEPT + name, each or b"") for name, each in record.headers]
        numbers = [("partition", b"%d" % record.partition), ("offset", b"%d" % record.offset)]
        place = [("topic", record.topic.encode()), *numbers]
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(each) for name, each in kept)
    if size > ROOM:
        key, value, kept = key and key[:KEY_ROOM], value and value[:VALUE_ROOM], []
        kept = [("cut", b"%d" % (size - len(key or b"") - len(value or b"")))]
    text = error[:ERROR_LENGTH].encode(errors="replace")
    return key, value, [("reason", reason.encode()), ("error", text), *place, *kept]


def read(
    place: tuple[int, int], written: int, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, Any]]
) -> Letter:
    """Read what stands at a place (partition, offset) as a letter, whoever wrote it."""
    named = [(name, each or b"") for name, each in headers]
    said = dict(named)
    whole = all(name in said for name in ("topic", "partition", "offset"))
    return Letter(
        place=place,
        written=written,
        key=key,
        value=value,
        reason=_text(said.get("reason")),
        error=_text(said.get("error")),
        topic=_text(said["topic"]) if whole else "",
        partition=_number(said["partition"], -1) if whole else -1,
        offset=_number(said["offset"], -1) if whole else -1,
        headers=[(name.removeprefix(KEPT), each) for name, each in named if name.startswith(KEPT)],
        more={name: _text(each) for name, each in said.items() if name not in _KNOWN and not name.startswith(KEPT)},
        cut=_number(said.get("cut"), 0),
    )


def retried(headers: Iterable[tuple[str, Any]]) -> int | None:
    """Of a receipt: the offset of its letter; None: it is none."""
    found = next((value for name, value in headers if name == RETRIED), None)
    return None if found is None else _number(found, -1)


def sent_back(letter: Letter) -> Headers:
    """The headers of a record that goes back to market.raw: its own, and how often."""
    return [*(each for each in letter.headers if each[0] != RETRY), (RETRY, b"%d" % (letter.retries + 1))]


def receipt(letter: Letter) -> Headers:
    """The headers of a letter's receipt."""
    place = [("topic", letter.topic.encode()), ("partition", b"%d" % letter.partition)]
    kept = [(KEPT + name, each) for name, each in sent_back(letter)]
    return [(RETRIED, b"%d" % letter.place[1]), *place, ("offset", b"%d" % letter.offset), *kept]


def redelivered(headers: Sequence[tuple[str, Any]]) -> tuple[str, Headers]:
    """Of a receipt: the topic that its record stood in, and the headers that it had there."""
    topic = next((_text(value) for name, value in headers if name == "topic"), "")
    return topic, [(name.removeprefix(KEPT), value) for name, value in headers if name.startswith(KEPT)]


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None, default: int) -> int:
    try:
        return int(value or b"")
    except ValueError:
        return default
