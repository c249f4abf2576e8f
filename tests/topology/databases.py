"""Databases that last as long as a test does, and what is written into them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from librt.strings import BytesWriter
from psycopg import sql

from deploy.local import Stack
from schemas.record import Quote, Trade
from topology.storage.tables import Row
from topology.storage.ticks import Block, Encoder


@contextmanager
def new_database(stack: Stack) -> Iterator[str]:
    """An empty database, as an address.

    At the end our own connections are cut first. FORCE would do that too, but the owner of a database may not end the
    server's autovacuum in it, and then FORCE refuses; without it the server ends that by itself.
    """
    name = f"t{uuid4().hex[:10]}"
    ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = current_user"
    with psycopg.connect(stack.database, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield f"{stack.database.rpartition('/')[0]}/{name}"
        finally:
            owner.execute(ours, [name])
            owner.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def parted(rows: Sequence[Row], encoder: Encoder) -> tuple[list[Row], list[Block]]:
    """Rows as the sink hands them to its writer: ticks encoded, but for those of unknown symbols."""
    out, ticks, others = BytesWriter(), list[Row](), list[Row]()
    for row in rows:
        encoded = isinstance(row[0], Quote | Trade) and encoder.put(out, row[0], row[1])
        (ticks if encoded else others).append(row)
    return others, [Block(out.getvalue(), len(ticks), lambda: ticks)] if ticks else []
