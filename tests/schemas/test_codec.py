"""The codec against fastavro, which is the reference, and against the versions that came before."""

import contextlib
import inspect
import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.schema import load_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec, flags
from schemas.codec import SINGLE_OBJECT, Codec, DecodeError, fingerprint_of, schemas, to_dict
from schemas.record import RECORDS, Quote, Rejected, Trade

I64 = st.integers(-(2**63), 2**63 - 1)
COUNTS = str({"type": "map", "values": "long"})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "long": I64,
    "string": st.text(max_size=20),
    COUNTS: st.dictionaries(st.text(max_size=8), I64, max_size=4),
}


def records_of(cls: type) -> st.SearchStrategy[Any]:
    types = {field["name"]: field["type"] for field in schemas()[cls.__name__]["fields"]}
    parts = {name: TICKS if isinstance(kind, list) else FIELDS[str(kind)] for name, kind in types.items()}
    return st.builds(cls, **parts)


TICKS = records_of(Quote) | records_of(Trade)
ANY_RECORD = st.one_of([records_of(cls) for cls in RECORDS])


def by_fastavro(record: Any) -> bytes:
    fields = to_dict(record)
    if "rejected" in fields:
        fields["rejected"] = dict(sorted(fields["rejected"].items()))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schemas()[type(record).__name__], fields)
    return out.getvalue()


@settings(deadline=None)
@given(ANY_RECORD)
def test_every_record_has_the_bytes_that_fastavro_writes(record: Any) -> None:
    assert Codec().encode(record)[10:] == by_fastavro(record)


@settings(deadline=None)
@given(ANY_RECORD)
def test_every_record_comes_back_from_its_bytes(record: Any) -> None:
    one = Codec()
    assert one.decode(one.encode(record)) == record


@settings(deadline=None)
@given(ANY_RECORD)
def test_a_message_begins_with_the_fingerprint_of_its_schema(record: Any) -> None:
    value = Codec().encode(record)
    assert value[:2] == SINGLE_OBJECT
    assert value[2:10] == fingerprint_of(schemas()[type(record).__name__])


@settings(deadline=None)
@given(ANY_RECORD, st.data())
def test_broken_bytes_are_a_decode_error_and_nothing_else(record: Any, data: st.DataObject) -> None:
    value = Codec().encode(record)
    cut = data.draw(st.integers(0, len(value)))
    noise = data.draw(st.binary(max_size=8))
    torn = value[:cut] + noise
    with contextlib.suppress(DecodeError):  # any other exception fails the test
        assert isinstance(Codec().decode(torn), RECORDS)


def test_bytes_after_the_record_are_refused() -> None:
    value = Codec().encode(Quote("EURUSD", "oanda", 1, 1, 1, 2))
    with pytest.raises(DecodeError, match="left over") as refusal:
        Codec().decode(value + b"\0")
    assert refusal.value.reason == flags.UNDECODABLE


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    header = SINGLE_OBJECT + fingerprint_of(schemas()["Clock"])
    with pytest.raises(DecodeError, match="64 bits"):
        Codec().decode(header + b"\xff" * 9 + b"\x02")


@pytest.mark.parametrize("cls", RECORDS)
def test_the_avro_file_says_what_the_record_says(cls: type) -> None:
    fields = schemas()[cls.__name__]["fields"]
    parameters = inspect.signature(cls).parameters
    assert [field["name"] for field in fields] == list(parameters)
    defaults = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
    assert {f["name"]: f["default"] for f in fields if "default" in f} == defaults


HISTORY = sorted((codec.HERE / "history").glob("*.avsc"))


def test_every_schema_has_a_history() -> None:
    assert {path.name.split(".")[0] for path in HISTORY} == {cls.__name__.lower() for cls in RECORDS}


@pytest.mark.parametrize("path", HISTORY, ids=lambda path: path.name)
def test_what_an_earlier_version_wrote_can_be_read(path: Path) -> None:
    """Backward compatible: a record written with each field of the old schema is read with the current one."""
    version = path.name.split(".")[1]
    name = json.loads(path.read_text())["name"]
    old = codec.read_schemas(lambda each: path.with_name(f"{each.lower()}.{version}.avsc"))[name]
    cls = next(cls for cls in RECORDS if cls.__name__ == name)
    record = _example(cls)
    fields = {field["name"]: to_dict(record).get(field["name"], 0) for field in old["fields"]}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, old, fields)
    assert Codec().decode(SINGLE_OBJECT + fingerprint_of(old) + out.getvalue()) == record


def _example(cls: Any) -> Any:
    if cls is Rejected:
        return Rejected(_example(Quote), "SPIKE", 1, 2, 3)
    samples: dict[str, Any] = {"long": 7, "string": "x", COUNTS: {"SPIKE": 2}}
    return cls(**{field["name"]: samples[str(field["type"])] for field in schemas()[cls.__name__]["fields"]})


def test_confluent_framing_carries_the_registry_s_id() -> None:
    ids = {cls.__name__: number for number, cls in enumerate(RECORDS, start=300)}
    one = Codec(ids=ids)
    quote = Quote("EURUSD", "oanda", 1, 1, 1, 2)
    value = one.encode(quote)
    assert value[:5] == b"\0" + (300).to_bytes(4, "big")
    assert one.decode(value) == quote


def test_an_older_schema_of_the_registry_is_resolved() -> None:
    ids = {cls.__name__: number for number, cls in enumerate(RECORDS, start=300)}
    fields = [{"name": n, "type": "string"} for n in ("symbol", "source")]
    fields += [{"name": n, "type": "long"} for n in ("ts_event", "ts_recv", "bid", "ask")]
    older = {"type": "record", "name": "Quote", "namespace": "tickloom", "fields": fields}
    one = Codec(ids=ids, schema_of=lambda number: json.dumps(older) if number == 7 else "")
    out = io.BytesIO()
    quote = Quote("EURUSD", "oanda", 1, 2, 3, 4)
    record = {name: getattr(quote, name) for name in ("symbol", "source", "ts_event", "ts_recv", "bid", "ask")}
    fastavro.schemaless_writer(out, fastavro.parse_schema(older), record)
    assert one.decode(b"\0" + (7).to_bytes(4, "big") + out.getvalue()) == quote


def test_an_unknown_schema_is_named() -> None:
    with pytest.raises(DecodeError, match="no schema is known for") as refusal:
        Codec().decode(b"{}")
    assert refusal.value.reason == flags.UNKNOWN_SCHEMA


def test_the_files_parse_as_avro() -> None:
    assert load_schema(str(codec.HERE / "quote.avsc"))
