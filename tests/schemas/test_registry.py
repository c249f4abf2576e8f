"""Confluent framing against a server that speaks the registry's protocol on a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from schemas.instrument import ConfigError
from schemas.record import RECORDS, Quote
from schemas.registry import codec_for


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


@pytest.fixture
def registry() -> Iterator[str]:
    """The address of a registry with nothing in it."""
    handler = type("Handler", (Registry,), {"known": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_with_a_registry_values_carry_its_ids(registry: str) -> None:
    codec = codec_for(registry)
    quote = Quote("EURUSD", "oanda", 1, 2, 3, 4)
    value = codec.encode(quote)
    assert value[0] == 0
    assert 1 <= int.from_bytes(value[1:5], "big") <= len(RECORDS)
    assert codec.decode(value) == quote


def test_a_schema_id_that_the_registry_does_not_know_is_a_decode_error(registry: str) -> None:
    with pytest.raises(ValueError, match="schema id"):
        codec_for(registry).decode(b"\0" + (99).to_bytes(4, "big") + b"\0")


def test_a_registry_that_is_away_is_named() -> None:
    with pytest.raises(ConfigError, match=r"schema registry at http://127\.0\.0\.1:1 "):
        codec_for("http://127.0.0.1:1")
