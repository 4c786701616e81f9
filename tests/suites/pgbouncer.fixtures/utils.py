"""Takes the place of the suite's own utils: what its tests import, without starting a PgBouncer."""

import contextlib
import os

import psycopg
import pytest
from psycopg import sql as _sql  # noqa: F401

LIBPQ_SUPPORTS_PIPELINING = psycopg.pq.version() >= 140000
LINUX, MACOS, WINDOWS, FREEBSD = True, False, False, False
USE_SUDO = False
PKT_BUF_SIZE = 4096
TLS_SUPPORT = True


class Bouncer:
    """What tests ask of a PgBouncer, asked of the server or of polypool, by the environment of libpq."""

    def __init__(self):
        self.default_db = None
        self.host, self.port = os.environ["PGHOST"], int(os.environ["PGPORT"])
        self.opened = []

    def conn(self, autocommit=True, dbname=None, user=None, password=None, **options):
        # Its databases are different pools of one; here is one pool.
        made = psycopg.connect(autocommit=autocommit, **options)
        self.opened.append(made)
        return made

    async def aconn(self, autocommit=True, dbname=None, **options):
        return await psycopg.AsyncConnection.connect(autocommit=autocommit, **options)

    @contextlib.contextmanager
    def cur(self, autocommit=True, **options):
        with self.conn(autocommit=autocommit, **options) as conn, conn.cursor() as cursor:
            yield cursor

    def sql(self, query, params=None, **options):
        with self.cur(**options) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall() if cursor.description else None

    def sql_value(self, query, params=None, **options):
        (row,) = self.sql(query, params, **options)
        return row[0]

    def test(self, **options):
        return self.sql_value("SELECT 1", **options)

    def sleep(self, seconds, **options):
        return self.sql(f"SELECT pg_sleep({seconds})", **options)

    def admin(self, query, **options):
        """Its settings do not exist here; what else it is told cannot be compared."""
        if not query.lower().startswith("set "):
            pytest.skip(f"asks PgBouncer itself: {query}")

    def log_contains(self, *_, **__):
        pytest.skip("looks at PgBouncer's log")

    def write_ini(self, *_, **__):
        pytest.skip("writes PgBouncer's configuration")
