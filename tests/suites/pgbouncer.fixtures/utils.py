"""Takes the place of the suite's own utils: what its tests import, without starting a PgBouncer.

Its databases p0, p1, ... are pools of one database here. Through polypool each is registered under that name, and its users
are credentials; directly all are the one database. What its tests tell PgBouncer's console, polypool's is told.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import subprocess

import psycopg
import pytest
from psycopg import sql as _sql  # noqa: F401

LIBPQ_SUPPORTS_PIPELINING = psycopg.pq.version() >= 140000
LINUX, MACOS, WINDOWS, FREEBSD = True, False, False, False
HAVE_IPV6_LOCALHOST = USE_UNIX_SOCKETS = USE_SUDO = False
PG_MAJOR_VERSION, PG_SUPPORTS_SCRAM = 15, True
LONG_PASSWORD = "a" * 996
PKT_BUF_SIZE = 4096
TLS_SUPPORT = True
# The names of pools and the passwords of users, if this is the run through polypool.
GATEWAY = json.loads(os.environ.get("SUITE_GATEWAY", "null"))


def capture(*_, **__):
    pytest.skip("runs PgBouncer itself")


run = capture


class Runner:
    """Makes connections, and runs texts on them."""

    def __init__(self):
        self.host, self.port = os.environ["PGHOST"], int(os.environ["PGPORT"])
        self.opened = []

    def login(self, options):
        raise NotImplementedError

    def conn(self, autocommit=True, **options):
        made = psycopg.connect(autocommit=autocommit, **self.login(options))
        self.opened.append(made)
        return made

    async def aconn(self, autocommit=True, **options):
        return await psycopg.AsyncConnection.connect(autocommit=autocommit, **self.login(options))

    @contextlib.contextmanager
    def cur(self, autocommit=True, **options):
        with self.conn(autocommit=autocommit, **options) as conn, conn.cursor() as cursor:
            yield cursor

    @contextlib.asynccontextmanager
    async def acur(self, **options):
        async with await self.aconn(**options) as conn, conn.cursor() as cursor:
            yield cursor

    def sql(self, query, params=None, **options):
        with self.cur(**options) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall() if cursor.description else None

    def sql_value(self, query, params=None, **options):
        (row,) = self.sql(query, params, **options)
        return row[0]

    def asql(self, query, **options):
        async def told():
            async with self.acur(**options) as cursor:
                await cursor.execute(query)
                return await cursor.fetchall() if cursor.description else None

        return asyncio.ensure_future(told())

    def test(self, **options):
        return self.sql(";", **options)

    def sleep(self, seconds, **options):
        return self.sql(f"SELECT pg_sleep({seconds})", **options)

    def asleep(self, seconds, times=1, sequentially=False, **options):
        async def slept():
            if sequentially:
                for _ in range(times):
                    await self.asql(f"SELECT pg_sleep({seconds})", **options)
            else:
                await asyncio.gather(*(self.asql(f"SELECT pg_sleep({seconds})", **options) for _ in range(times)))

        return asyncio.ensure_future(slept())


class Console(Runner):
    """Polypool's console."""

    def sql(self, query, params=None, **options):
        found = super().sql(query, params, **options)
        if query.upper() != "SHOW CLIENTS":
            return found
        # PgBouncer's console counts itself among the clients; polypool's does not.
        itself = {"type": "C", "user": "pgbouncer", "database": "pgbouncer", "state": "active", "id": 0}
        return [*found, itself]

    def login(self, options):
        if not GATEWAY:
            pytest.skip("a server has no console")
        token = pathlib.Path(os.environ["POLYPOOL_ADMIN_TOKEN_FILE"]).read_text().strip()
        return options | {"dbname": "polypool", "user": "pgbouncer", "password": token}


class Bouncer(Runner):
    """What tests ask of a PgBouncer, asked of the server or of polypool, by the environment of libpq."""

    def __init__(self):
        super().__init__()
        self.default_db = "p0"
        self.console = Console()
        self.opened = self.console.opened

    def login(self, options):
        dbname, user = options.pop("dbname", None) or self.default_db, options.pop("user", None)
        if GATEWAY and dbname in GATEWAY["pools"]:
            user = user if user in GATEWAY["users"] else GATEWAY["user"]
            options["password"] = GATEWAY["users"][user]
            options["user"] = f"{user}.{dbname.replace('_', '-')}"
        return options

    def _is_setting(self, query):
        """Its settings do not exist here: what is set belongs to PgBouncer, or is so anyway (the pool mode)."""
        return query.lower().startswith("set ")

    def admin(self, query, **options):
        return None if self._is_setting(query) else self.console.sql(query, **options)

    def admin_value(self, query, **options):
        return self.console.sql_value(query, **options)

    def aadmin(self, query, **options):
        return self.console.asql(query, **options)

    def print_logs(self):
        pass

    def log_contains(self, *_, **__):
        pytest.skip("looks at PgBouncer's log")

    def write_ini(self, *_, **__):
        pytest.skip("writes PgBouncer's configuration")


class Server:
    """The server itself, as far as tests handle it."""

    def _command(self):
        data = f"{os.environ['POLYPOOL_TEST_STATE']}/postgres/data"
        command = ["/usr/lib/postgresql/15/bin/pg_ctl", "-D", data, "-m", "fast", "-w", "-s", "restart"]
        return command if os.getuid() else ["runuser", "-u", "postgres", "--", *command]

    def restart(self):
        subprocess.run(self._command(), check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    async def arestart(self):
        await asyncio.to_thread(self.restart)
