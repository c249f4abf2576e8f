"""The codec that a process should use: Confluent's framing where a schema registry is named.

Each record's schema is registered under its full name (record-name strategy: one topic holds several kinds).
"""

import json
from functools import cache

from schemas.codec import Codec, schemas
from schemas.instrument import ConfigError
from schemas.record import RECORDS


@cache
def codec_for(url: str) -> Codec:
    """Make a codec; ``url`` of the registry, or empty for Avro's single objects.

    Raises ConfigError where the registry can't be reached or refuses a schema as incompatible.
    """
    if not url:
        return Codec()
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    client = SchemaRegistryClient({"url": url})
    ids = {}
    try:
        for cls in RECORDS:
            text = json.dumps(_plain(schemas()[cls.__name__]))
            ids[cls.__name__] = client.register_schema(f"tickloom.{cls.__name__}", Schema(text, "AVRO"))
    except Exception as error:  # the errors of its HTTP library are no part of the client's interface
        raise ConfigError(f"the schema registry at {url} did not take the schemas: {error}") from error

    def schema_of(number: int) -> str:
        try:
            return client.get_schema(number).schema_str or ""
        except SchemaRegistryError as error:
            raise LookupError(str(error)) from error

    return Codec(ids, schema_of)


def _plain(schema: object) -> object:
    """A schema without the marks that fastavro leaves in what it has parsed."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if not key.startswith("__")}
    return [_plain(each) for each in schema] if isinstance(schema, list) else schema
