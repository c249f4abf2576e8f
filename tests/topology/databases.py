"""Databases that last as long as a test does."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql

from deploy.local import Stack


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
