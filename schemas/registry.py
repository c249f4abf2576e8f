"""The codec that a process should use: Confluent's framing where a schema registry is named.

Each record's schema is registered under its full name (record-name strategy: one topic holds several kinds).
"""

import json
import re
from functools import cache
from typing import Final

from schemas.codec import Codec, SchemaOf, schemas
from schemas.instrument import ConfigError
from schemas.record import RECORDS

ANSWER_S: Final = 5.0  # a registry that is there answers within this; it is asked four times


@cache
def codec_for(url: str) -> Codec:
    """Make a codec; ``url`` of the registry, or empty for Avro's single objects.

    Raises ConfigError where the registry can't be reached or refuses a schema as incompatible.
    """
    if not url:
        return Codec()
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

    client = SchemaRegistryClient({"url": url, "timeout": ANSWER_S})
    ids = {}
    try:
        for cls in RECORDS:
            text = json.dumps(_plain(schemas()[cls.__name__]))
            ids[cls.__name__] = client.register_schema(f"tickloom.{cls.__name__}", Schema(text, "AVRO"))
    except Exception as error:  # the errors of its HTTP library are no part of the client's interface
        raise ConfigError(f"the schema registry at {_shown(url)} did not take the schemas: {error}") from error
    return Codec(ids, schema_of(url))


def schema_of(url: str) -> SchemaOf:
    """Make the look-up of a registry's schemas: an id in, JSON text out.

    It raises LookupError where the registry has no such schema, ConnectionError where it gives no answer: then nobody
    knows whether there is one.
    """
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    client = SchemaRegistryClient({"url": url, "timeout": ANSWER_S})

    def look_up(number: int) -> str:
        try:
            return client.get_schema(number).schema_str or ""
        except Exception as error:  # the errors of its HTTP library are no part of the client's interface
            if isinstance(error, SchemaRegistryError) and error.http_status_code == 404:
                raise LookupError(str(error)) from error
            raise ConnectionError(
                f"the schema registry at {_shown(url)} gave no schema {number}: {error}; start it, or correct "
                "SCHEMA_REGISTRY_URL"
            ) from error

    return look_up


def _shown(url: str) -> str:
    """The address without the user and password that may stand in it."""
    return re.sub(r"(?<=://)[^@/]*@", "", url)


def _plain(schema: object) -> object:
    """A schema without the marks that fastavro leaves in what it has parsed."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if not key.startswith("__")}
    return [_plain(each) for each in schema] if isinstance(schema, list) else schema
