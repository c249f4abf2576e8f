"""fastavro as everybody uses it: the decoding and encoding that the peers do."""

import io

import fastavro

from schemas.codec import SINGLE_OBJECT, fingerprint_of, schemas

SCHEMA = schemas()["Quote"]
HEADER = SINGLE_OBJECT + fingerprint_of(SCHEMA)


def recode(value: bytes) -> bytes | None:
    """Decode a quote and encode it again; None for a record of another kind (the clock)."""
    if not value.startswith(HEADER):
        return None
    source = io.BytesIO(value)
    source.seek(len(HEADER))
    quote = fastavro.schemaless_reader(source, SCHEMA, None)
    out = io.BytesIO()
    out.write(HEADER)
    fastavro.schemaless_writer(out, SCHEMA, quote)
    return out.getvalue()
