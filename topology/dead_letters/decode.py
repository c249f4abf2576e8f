"""Read bytes that are no record, as far as they go: framing, schema, and field by field by fastavro.

The codec of the workers reads a record whole or not at all; a person wants to know where it broke.
"""

import io
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import fastavro
import msgspec

from schemas.codec import HERE, SINGLE_OBJECT, SchemaOf, fingerprint_of, read_schemas, schemas

#: What fastavro raises for bytes that end or are not what the schema says.
BROKEN: Final = (ValueError, LookupError, EOFError, TypeError, OverflowError, MemoryError)
WIDTH: Final = 16  # bytes in a line of a dump
SHOWN: Final = 512  # bytes at most, unless all are asked for


class Reading(msgspec.Struct, frozen=True):
    """How far a value could be read. ``error``: why not to its end; empty where all of it is a record."""

    framing: str
    schema: str  # its name; empty: not known
    version: str
    fields: dict[str, Any]
    at: int  # where reading ended
    error: str


def read(value: bytes | None, schema_of: SchemaOf | None = None) -> Reading:
    """Read a value in either framing. Raises nothing: what is wrong is in the answer."""
    if value is None:
        return Reading("no value", "", "", {}, 0, "a tombstone: it has no bytes")
    if value.startswith(SINGLE_OBJECT) and len(value) >= 10:
        framing = f"Avro single object, fingerprint {value[2:10].hex()}"
        found = known().get(value[:10])
        if found is None:
            return Reading(framing, "", "", {}, 2, "no schema with this fingerprint is known here")
        return _read(framing, *found, value, 10)
    if value.startswith(b"\0") and len(value) >= 5:
        number = int.from_bytes(value[1:5], "big")
        framing = f"Confluent, schema id {number}"
        if schema_of is None:
            return Reading(framing, "", "", {}, 1, "SCHEMA_REGISTRY_URL is not set")
        try:
            schema: Any = fastavro.parse_schema(json.loads(schema_of(number)))
        except (*BROKEN, ConnectionError, fastavro.schema.SchemaParseException) as error:
            return Reading(framing, "", "", {}, 1, f"the registry's schema: {error}")
        name = str(schema.get("name", "")) if isinstance(schema, dict) else ""
        return _read(framing, name, "of the registry", schema, value, 5)
    return Reading("none that is known", "", "", {}, 0, "begins neither with c301 nor with 00 and a schema id")


@cache
def known() -> dict[bytes, tuple[str, str, Any]]:
    """Every schema by the ten bytes before a record: its name, its version, and itself."""
    found = {SINGLE_OBJECT + fingerprint_of(schema): (name, "current", schema) for name, schema in schemas().items()}
    for version in sorted({path.name.split(".")[1] for path in (HERE / "history").glob("*.avsc")}, reverse=True):
        older = read_schemas(lambda name, of=version: HERE / "history" / f"{name.lower()}.{of}.avsc")  # type: ignore[misc]
        for name, schema in older.items():
            found.setdefault(SINGLE_OBJECT + fingerprint_of(schema), (name, version, schema))
    return found


def _read(framing: str, name: str, version: str, schema: Any, value: bytes, start: int) -> Reading:
    stream = io.BytesIO(value)
    stream.seek(start)
    fields: dict[str, Any] = {}
    at, error = start, ""
    try:
        for path, each in _fields(stream, schema, ""):
            fields[path] = each
            at = stream.tell()
    except _BrokenError as broken:
        error = str(broken)
    else:
        if at < len(value):
            error = f"{len(value) - at} bytes are left over behind the record"
    return Reading(framing, name.removeprefix("tickloom."), version, fields, at, error)


class _BrokenError(Exception):
    """The field that could not be read, and why."""


def _fields(stream: io.BytesIO, schema: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The fields one by one, those of records within by their path."""
    if isinstance(schema, list):
        branch = _value(stream, "long", path)
        if not 0 <= branch < len(schema):
            raise _BrokenError(f"{path}: a union has no branch {branch}")
        yield from _fields(stream, schema[branch], path)
    elif isinstance(schema, dict) and schema["type"] == "record":
        for field in schema["fields"]:
            yield from _fields(stream, field["type"], f"{path}.{field['name']}".lstrip("."))
    else:
        yield path, _value(stream, schema, path)


def _value(stream: io.BytesIO, schema: Any, path: str) -> Any:
    try:
        return fastavro.schemaless_reader(stream, schema, None)
    except BROKEN as error:
        raise _BrokenError(f"{path}: {str(error) or 'the bytes end'}") from error


def dump(value: bytes, broken_at: int = -1, limit: int = SHOWN) -> list[str]:
    """The bytes as lines of offset, hex and text; a mark under the byte where reading ended."""
    lines = []
    for start in range(0, min(len(value), limit), WIDTH):
        part = value[start : min(start + WIDTH, limit)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<{WIDTH * 3}} {text}")
        if start <= broken_at < start + WIDTH:
            lines.append(" " * (10 + 3 * (broken_at - start)) + "^^")
    if len(value) > limit:
        lines.append(f"… and {len(value) - limit:,} bytes more")
    return lines
