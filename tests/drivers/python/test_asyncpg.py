"""asyncpg, unchanged: binary protocol, its statement cache, its own cancel on time-out, COPY, its pool with reset."""

import asyncio
import datetime
import decimal
import uuid

import asyncpg
import pytest

CLIENTS = 50


@pytest.fixture
async def conn(urls):
    conn = await asyncpg.connect(urls.postgres, timeout=20)
    yield conn
    await conn.close()


@pytest.fixture
async def table(conn, name):
    await conn.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY, v text)")
    yield name
    await conn.execute(f"DROP TABLE {name}")


async def test_connects_and_reports_its_server(conn):
    assert conn.get_server_version().major >= 15
    assert conn.get_settings().server_encoding == "UTF8"
    assert conn.get_server_pid() > 0


async def test_script_of_many_statements(conn, table):
    status = await conn.execute(f"INSERT INTO {table} VALUES (1, 'a'); INSERT INTO {table} VALUES (2, 'b'); SELECT 1")
    assert status == "SELECT 1"
    assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 2


@pytest.mark.parametrize(
    "kind,value",
    [
        ("smallint", -32768),
        ("bigint", 2**63 - 1),
        ("numeric", decimal.Decimal("-12345678901234567890.000000001")),
        ("float8", 1.5e-300),
        ("boolean", False),
        ("text", "naïve – 文字 😀"),
        ("bytea", bytes(range(256))),
        ("date", datetime.date(1999, 12, 31)),
        ("timestamptz", datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.timezone.utc)),
        ("interval", datetime.timedelta(days=3, microseconds=1)),
        ("uuid", uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")),
        ("jsonb", '{"a": [1, null, {"b": "ü"}]}'),
        ("integer[]", [1, None, 3]),
        ("text[]", ["a,b", '"', "", None]),
        ("int4range", asyncpg.Range(1, 5)),
        ("integer", None),
    ],
)
async def test_type_round_trip(conn, kind, value):
    assert await conn.fetchval(f"SELECT $1::{kind}", value) == value


async def test_composite_type_is_introspected(conn, name):
    await conn.execute(f"CREATE TYPE {name} AS (a integer, b text)")
    try:
        assert tuple(await conn.fetchval(f"SELECT ROW(1, 'x')::{name}")) == (1, "x")
    finally:
        await conn.execute(f"DROP TYPE {name}")


async def test_transactions_commit_and_roll_back(conn, table):
    async with conn.transaction():
        await conn.execute(f"INSERT INTO {table} VALUES (1, 'kept')")
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute(f"INSERT INTO {table} VALUES (2, 'undone')")
                raise ZeroDivisionError
    assert await conn.fetchval(f"SELECT array_agg(id) FROM {table}") == [1]


async def test_error_in_transaction_aborts_it(conn, table):
    transaction = conn.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await conn.execute(f"INSERT INTO {table} VALUES (1, ''), (1, '')")
    assert (caught.value.sqlstate, caught.value.table_name) == ("23505", table)
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await conn.fetchval("SELECT 1")
    await transaction.rollback()
    assert await conn.fetchval("SELECT 1") == 1


async def test_prepared_statement_across_transactions(conn):
    statement = await conn.prepare("SELECT $1::integer * 2 AS doubled")
    assert [a.name for a in statement.get_attributes()] == ["doubled"]
    assert [p.name for p in statement.get_parameters()] == ["int4"]
    for n in range(30):
        async with conn.transaction():
            assert await statement.fetchval(n) == n * 2


async def test_statement_cache_turns_over(urls):
    conn = await asyncpg.connect(urls.postgres, statement_cache_size=10)
    try:
        for _ in range(3):
            for n in range(40):
                assert await conn.fetchrow(f"SELECT {n} AS n, $1::text AS t", "x") == (n, "x")
    finally:
        await conn.close()


async def test_cached_statement_after_a_schema_change(conn, table):
    await conn.execute(f"INSERT INTO {table} VALUES (1, '7')")
    assert await conn.fetchrow(f"SELECT * FROM {table}") == (1, "7")
    await conn.execute(f"ALTER TABLE {table} ALTER v TYPE integer USING v::integer")
    assert await conn.fetchrow(f"SELECT * FROM {table}") == (1, 7)


async def test_executemany(conn, table):
    await conn.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(n, str(n)) for n in range(2000)])
    assert await conn.fetchval(f"SELECT sum(id) FROM {table}") == 1999000


async def test_executemany_is_one_transaction(conn, table):
    with pytest.raises(asyncpg.UniqueViolationError):
        await conn.executemany(f"INSERT INTO {table} VALUES ($1, '')", [(1,), (2,), (1,)])
    assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_copy_in_and_out(conn, table):
    records = [(n, None if n % 7 == 0 else f"row {n}") for n in range(5000)]
    assert await conn.copy_records_to_table(table, records=records) == "COPY 5000"
    received = bytearray()

    async def collect(data):
        received.extend(data)

    assert await conn.copy_from_query(f"SELECT * FROM {table} ORDER BY id", output=collect, format="csv") == "COPY 5000"
    assert received.decode() == "".join(f"{n},{v or ''}\n" for n, v in records)


async def test_cursor_in_transaction(conn):
    async with conn.transaction():
        assert [r[0] async for r in conn.cursor("SELECT generate_series(1, 1000)", prefetch=50)] == list(range(1, 1001))
        cursor = await conn.cursor("SELECT generate_series(1, 100)")
        await cursor.forward(10)
        assert (await cursor.fetchrow())[0] == 11


async def test_large_value_and_large_result(conn):
    value = bytes(range(256)) * (12 * 1024 * 4)
    assert await conn.fetchval("SELECT $1::bytea", value) == value
    rows = await conn.fetch("SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 12000) n")
    assert len(rows) == 12000 and rows[-1]["x"] == "x" * 1000


async def test_timeout_cancels_the_query(conn):
    with pytest.raises(asyncio.TimeoutError):
        await conn.execute("SELECT pg_sleep(60)", timeout=0.2)
    assert await conn.fetchval("SELECT 1") == 1


async def test_concurrent_clients_keep_their_own_statements(urls, table):
    async def client(n):
        conn = await asyncpg.connect(urls.postgres, timeout=60)
        try:
            for step in range(5):
                async with conn.transaction():
                    await conn.execute(f"INSERT INTO {table} VALUES ($1, $2)", n * 100 + step, f"c{n}")
                    assert await conn.fetchval(f"SELECT count(*) FROM {table} WHERE v = $1", f"c{n}") == step + 1
                # Statement names are numbered by connection; the text behind a name differs between clients.
                assert await conn.fetchval(f"SELECT 'client {n}' || $1::text", str(step)) == f"client {n}{step}"
        finally:
            await conn.close()

    await asyncio.gather(*(client(n) for n in range(CLIENTS)))


async def test_the_drivers_own_pool(urls, table):
    # Its release runs `SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;`.
    async with asyncpg.create_pool(urls.postgres, min_size=2, max_size=8) as pool:

        async def job(n):
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute(f"INSERT INTO {table} VALUES ($1, 'job')", n)
                return await conn.fetchval(f"SELECT id FROM {table} WHERE id = $1", n)

        assert await asyncio.gather(*(job(n) for n in range(200))) == list(range(200))
