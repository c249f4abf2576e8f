"""Confluent framing against a server that speaks the registry's protocol on a real socket."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from schemas import flags
from schemas.codec import Codec, DecodeError
from schemas.instrument import ConfigError
from schemas.record import RECORDS, Quote, Rejected
from schemas.registry import codec_for, schema_of

QUOTE = Quote("EURUSD", "oanda", 1, 2, 3, 4)
LATER = {cls.__name__: number for number, cls in enumerate(RECORDS, start=300)}  # ids of schemas that came later


class Registry(BaseHTTPRequestHandler):
    """POST /subjects/NAME/versions gives an id; GET /schemas/ids/N gives the schema back."""

    known: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        schema = json.loads(body)["schema"]
        if schema not in self.known:
            self.known.append(schema)
        self._answer({"id": self.known.index(schema) + 1})

    def do_GET(self) -> None:
        number = int(self.path.split("?")[0].rpartition("/")[2])
        if number > len(self.known):
            self._answer({"error_code": 40403, "message": "Schema not found"}, 404)
        else:
            self._answer({"schema": self.known[number - 1]})

    def _answer(self, body: Any, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Broken(Registry):
    """A registry that has lost its store: it answers, and gives nothing."""

    def do_GET(self) -> None:
        self._answer({"error_code": 50001, "message": "Error in the backend data store"}, 500)


@contextmanager
def serving(kind: type[Registry], *known: str) -> Iterator[str]:
    """The address of a registry that has these schemas."""
    handler = type("Handler", (kind,), {"known": list(known)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def registry() -> Iterator[str]:
    """The address of a registry with nothing in it."""
    with serving(Registry) as url:
        yield url


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks again at once: it would wait for up to seven seconds in all."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


def test_with_a_registry_values_carry_its_ids(registry: str) -> None:
    codec = codec_for(registry)
    value = codec.encode(QUOTE)
    assert value[0] == 0
    assert 1 <= int.from_bytes(value[1:5], "big") <= len(RECORDS)
    assert codec.decode(value) == QUOTE


@pytest.mark.parametrize("record", [QUOTE, Rejected(QUOTE, "SPIKE", 1, 2, 3)], ids=lambda each: type(each).__name__)
def test_what_was_written_and_registered_before_is_read_after_an_upgrade(registry: str, record: Any) -> None:
    value = codec_for(registry).encode(record)
    assert Codec(LATER, schema_of(registry)).decode(value) == record


def test_a_schema_id_that_the_registry_does_not_know_is_a_decode_error(registry: str) -> None:
    with pytest.raises(DecodeError, match="schema id 00000063: Schema not found") as refusal:
        codec_for(registry).decode(b"\0" + (99).to_bytes(4, "big") + b"\0")
    assert refusal.value.reason == flags.UNKNOWN_SCHEMA


@pytest.mark.parametrize(
    "schema",
    [
        '"string"',
        '["null", "string"]',
        "true",
        "syntax = protobuf",
        '{"name": "Quote"}',
        '{"type": "record", "name": "Quote", "fields": "none"}',
        '{"type": "record", "name": "elsewhere.Quote", "fields": []}',
        '{"type": "record", "name": "tickloom.Quote", "fields": []}',
    ],
)
def test_a_schema_that_is_not_one_of_ours_is_a_decode_error(schema: str) -> None:
    with serving(Registry, schema) as url, pytest.raises(DecodeError):
        Codec(LATER, schema_of(url)).decode(b"\0\0\0\0\1\0")


def test_a_registry_that_gives_no_answer_condemns_no_record(hasty: None) -> None:
    with serving(Broken) as url, pytest.raises(ConnectionError, match=r"gave no schema 7: .*500.*SCHEMA_REGISTRY_URL"):
        Codec(LATER, schema_of(url)).decode(b"\0\0\0\0\7\0")
    with pytest.raises(
        ConnectionError, match=r"schema registry at http://127\.0\.0\.1:1 gave no schema 7: .*; start it"
    ):
        Codec(LATER, schema_of("http://tick:secret@127.0.0.1:1")).decode(b"\0\0\0\0\7\0")


def test_a_registry_that_is_away_is_named(hasty: None) -> None:
    with pytest.raises(ConfigError, match=r"schema registry at http://127\.0\.0\.1:1 "):
        codec_for("http://127.0.0.1:1")
