"""psycopg 3 (libpq), unchanged: simple and extended protocol, pipelines, COPY, cursors, cancel, its pool."""

import datetime
import decimal
import ipaddress
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import psycopg_pool
import pytest
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

from conftest import eventually

CLIENTS = 50


@pytest.fixture
def connect(urls):
    """Makes connections that are closed when the test ends."""
    opened = []

    def make(**options):
        conn = psycopg.connect(urls.postgres, connect_timeout=20, **options)
        opened.append(conn)
        return conn

    def close_all():
        while opened:
            opened.pop().close()

    make.close_all = close_all
    yield make
    close_all()


@pytest.fixture
def table(connect, name):
    """A table (id integer primary key, v text), dropped at the end."""
    conn = connect(autocommit=True)
    conn.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY, v text)")
    yield name
    connect.close_all()  # a test that failed may still hold locks
    connect(autocommit=True).execute(f"DROP TABLE {name}")


def test_connects_and_reports_its_server(connect):
    conn = connect()
    assert conn.info.server_version >= 150000
    assert conn.info.parameter_status("server_encoding") == "UTF8"
    assert conn.info.parameter_status("standard_conforming_strings") == "on"
    assert conn.info.backend_pid > 0
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_simple_query_with_many_statements(connect):
    cur = connect(autocommit=True).execute("SELECT 1; SELECT 'two', 2; SELECT generate_series(1, 3)")
    results = [cur.fetchall()]
    while cur.nextset():
        results.append(cur.fetchall())
    assert results == [[(1,)], [("two", 2)], [(1,), (2,), (3,)]]


def test_empty_query_and_no_rows(connect):
    conn = connect(autocommit=True)
    assert conn.execute("").description is None
    assert conn.execute("SELECT 1 WHERE false").fetchall() == []


VALUES = [
    ("smallint", -32768),
    ("integer", 2147483647),
    ("bigint", -(2**63)),
    ("numeric", decimal.Decimal("-12345678901234567890.000000001")),
    ("double precision", 1.5e-300),
    ("double precision", float("inf")),
    ("boolean", True),
    ("text", ""),
    ("text", "naïve – 文字 😀 \t\n'\"\\"),
    ("bytea", bytes(range(256)) * 3),
    ("date", datetime.date(1999, 12, 31)),
    ("time", datetime.time(23, 59, 59, 999999)),
    ("timestamp", datetime.datetime(2024, 2, 29, 12, 0, 0, 1)),
    ("timestamptz", datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.timezone.utc)),
    ("interval", datetime.timedelta(days=3, microseconds=1)),
    ("uuid", uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")),
    ("inet", ipaddress.ip_address("2001:db8::1")),
    ("jsonb", {"a": [1, None, {"b": "ü"}]}),
    ("integer[]", [1, None, 3]),
    ("text[]", ["a,b", '"', "", None]),
    ("int4range", Range(1, 5)),
    ("integer", None),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("kind,value", VALUES, ids=[f"{i}-{k}" for i, (k, _) in enumerate(VALUES)])
def test_type_round_trip(shared, kind, value, binary):
    sent = Jsonb(value) if kind == "jsonb" else value
    query = sql.SQL("SELECT {}::{}").format(sql.Placeholder(), sql.SQL(kind))
    assert shared.execute(query, [sent], binary=binary).fetchone() == (value,)


@pytest.fixture(scope="module")
def shared(urls):
    with psycopg.connect(urls.postgres, autocommit=True) as conn:
        yield conn


def test_commit_and_rollback(connect, table):
    writer, reader = connect(), connect(autocommit=True)
    count = f"SELECT count(*) FROM {table}"
    writer.execute(f"INSERT INTO {table} VALUES (1, 'kept')")
    assert reader.execute(count).fetchone() == (0,)
    writer.commit()
    assert reader.execute(count).fetchone() == (1,)
    writer.execute(f"DELETE FROM {table}")
    assert writer.execute(count).fetchone() == (0,)
    writer.rollback()
    assert reader.execute(count).fetchone() == (1,)


def test_savepoints(connect, table):
    conn = connect()
    with conn.transaction():
        conn.execute(f"INSERT INTO {table} VALUES (1, 'outer')")
        with pytest.raises(errors.UniqueViolation), conn.transaction():
            conn.execute(f"INSERT INTO {table} VALUES (1, 'inner')")
        with conn.transaction():
            conn.execute(f"INSERT INTO {table} VALUES (2, 'inner')")
    assert conn.execute(f"SELECT v FROM {table} ORDER BY id").fetchall() == [("outer",), ("inner",)]


def test_isolation_level_and_read_only(connect, table):
    conn = connect()
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    conn.read_only = True
    assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
    with pytest.raises(errors.ReadOnlySqlTransaction):
        conn.execute(f"INSERT INTO {table} VALUES (1, '')")
    conn.rollback()


@pytest.mark.parametrize(
    "statement,state",
    [
        ("SELEC 1", "42601"),
        ("SELECT * FROM no_such_table_anywhere", "42P01"),
        ("SELECT no_such_column", "42703"),
        ("SELECT 1/0", "22012"),
        ("SELECT 'x'::integer", "22P02"),
        ("DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'PP001', DETAIL = 'd', HINT = 'h'; END $$", "PP001"),
    ],
)
def test_error_carries_its_sqlstate(connect, statement, state):
    conn = connect()
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement)
    assert caught.value.sqlstate == state
    if state == "PP001":
        diag = caught.value.diag
        assert (diag.severity, diag.message_primary, diag.message_detail, diag.message_hint) == ("ERROR", "own", "d", "h")
    # The transaction is aborted, and says so until it is rolled back.
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    with pytest.raises(errors.InFailedSqlTransaction):
        conn.execute("SELECT 1")
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_deferred_error_at_commit(connect, name):
    conn = connect(autocommit=True)
    conn.execute(f"CREATE TABLE {name} (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    try:
        with pytest.raises(errors.UniqueViolation), conn.transaction():
            conn.execute(f"INSERT INTO {name} VALUES (1), (1)")
        assert conn.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)
    finally:
        conn.execute(f"DROP TABLE {name}")


def test_notice_reaches_its_client(connect):
    conn = connect(autocommit=True)
    heard = []
    conn.add_notice_handler(lambda diag: heard.append((diag.severity, diag.message_primary)))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'beware'; END $$")
    assert heard == [("NOTICE", "hello 1"), ("WARNING", "beware")]


def test_named_statements_survive_transactions(connect):
    conn = connect(prepare_threshold=0)
    for n in range(30):
        assert conn.execute("SELECT %s::integer + 1", [n]).fetchone() == (n + 1,)
        assert conn.execute("SELECT %s::text || 'x'", [str(n)]).fetchone() == (f"{n}x",)
        conn.commit()


def test_same_statement_name_means_each_clients_own(connect):
    # Every connection numbers its statements from zero, so that the names collide and the texts differ.
    conns = [connect(prepare_threshold=0, autocommit=True) for _ in range(8)]
    for round_ in range(5):
        for n, conn in enumerate(conns):
            query = f"SELECT %s::integer, 'client {n}', {n}"
            assert conn.execute(query, [round_]).fetchone() == (round_, f"client {n}", n)


def test_prepared_statement_error_leaves_others_usable(connect):
    conn = connect(prepare_threshold=0, autocommit=True)
    assert conn.execute("SELECT %s::integer", [1]).fetchone() == (1,)
    with pytest.raises(errors.UndefinedTable):
        conn.execute("SELECT %s::integer FROM no_such_table_anywhere", [1])
    with pytest.raises(errors.DivisionByZero):
        conn.execute("SELECT 1 / %s::integer", [0])
    assert conn.execute("SELECT 1 / %s::integer", [1]).fetchone() == (1,)
    assert conn.execute("SELECT %s::integer", [2]).fetchone() == (2,)


def test_executemany_returning(connect, table):
    conn = connect()
    cur = conn.cursor()
    cur.executemany(f"INSERT INTO {table} VALUES (%s, %s) RETURNING id", [(n, str(n)) for n in range(500)], returning=True)
    got = []
    while True:
        got.append(cur.fetchone()[0])
        if not cur.nextset():
            break
    assert got == list(range(500))
    conn.commit()


def test_pipeline_keeps_order(connect, table):
    conn = connect(autocommit=True)
    with conn.pipeline():
        conn.execute(f"INSERT INTO {table} SELECT n, n::text FROM generate_series(0, 199) n")
        cursors = [conn.execute(f"SELECT v FROM {table} WHERE id = %s", [n]) for n in range(200)]
        assert [cur.fetchone() for cur in cursors] == [(str(n),) for n in range(200)]


def test_pipeline_error_skips_to_its_sync(connect, table):
    conn = connect(autocommit=True)
    with pytest.raises(errors.DivisionByZero):
        with conn.pipeline() as pipeline:
            conn.execute(f"INSERT INTO {table} VALUES (1, 'undone')")
            conn.execute("SELECT 1 / %s::integer", [0])
            conn.execute(f"INSERT INTO {table} VALUES (2, 'skipped')")
            pipeline.sync()
    assert conn.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    with conn.pipeline() as pipeline:
        failed = conn.execute("SELECT 1 / %s::integer", [0])
        with pytest.raises(errors.DivisionByZero):
            pipeline.sync()
        kept = conn.execute("SELECT 'after the sync'")
        pipeline.sync()
        assert kept.fetchone() == ("after the sync",)
        del failed


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_copy_in_and_out(connect, table, kind):
    conn = connect()
    rows = [(n, None if n % 7 == 0 else f"row {n}\twith\\tab") for n in range(5000)]
    option = "(FORMAT binary)" if kind == "binary" else ""
    with conn.cursor() as cur:
        with cur.copy(f"COPY {table} FROM STDIN {option}") as copy:
            if kind == "binary":
                copy.set_types(["int4", "text"])
            for row in rows:
                copy.write_row(row)
        assert cur.rowcount == len(rows)
        with cur.copy(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT {option}") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows
    conn.commit()


def test_copy_that_fails_leaves_nothing(connect, table):
    conn = connect(autocommit=True)
    with pytest.raises(errors.InvalidTextRepresentation):
        with conn.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            copy.write("1\tgood\nnot a number\tbad\n")
    with pytest.raises(ZeroDivisionError):
        with conn.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            copy.write_row((1, "the client gives up"))
            raise ZeroDivisionError
    assert conn.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_large_result_of_many_rows(connect):
    cur = connect().execute("SELECT n, repeat('x', 1000) FROM generate_series(1, 12000) n")
    rows = cur.fetchall()
    assert len(rows) == 12000 and rows[-1] == (12000, "x" * 1000)


def test_large_value_both_ways(connect):
    value = bytes(range(256)) * (12 * 1024 * 4)
    assert connect().execute("SELECT %b::bytea", [value], binary=True).fetchone() == (value,)


def test_rows_stream_one_by_one(connect):
    cur = connect().cursor()
    assert sum(n for (n,) in cur.stream("SELECT generate_series(1, 10000)")) == 50005000


def test_server_side_cursor(connect):
    with connect() as conn, conn.cursor("scrolling") as cur:
        cur.itersize = 100
        cur.execute("SELECT generate_series(1, 1000)")
        assert [n for (n,) in cur] == list(range(1, 1001))


def test_cancel_ends_the_running_query(connect):
    conn, watcher = connect(), connect(autocommit=True)
    marker = f"cancel {uuid.uuid4()}"

    def cancel():
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND wait_event = 'PgSleep'"
        try:
            eventually(lambda: watcher.execute(running, [f"%{marker}%"]).fetchone() != (0,))
        finally:
            conn.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(errors.QueryCanceled) as caught:
        conn.execute(f"SELECT pg_sleep(30) /* {marker} */")
    thread.join()
    assert caught.value.sqlstate == "57014"
    conn.rollback()
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_cancel_of_an_idle_client_harms_nobody(connect):
    idle, busy = connect(autocommit=True), connect(autocommit=True)
    idle.execute("SELECT 1")
    thread = threading.Thread(target=lambda: [idle.cancel() for _ in range(5)])
    thread.start()
    for _ in range(20):
        assert busy.execute("SELECT pg_sleep(0.01)").fetchone() == ("",)
    thread.join()


def test_session_settings_stay_with_their_client(connect):
    conns = [connect(autocommit=True) for _ in range(4)]
    try:
        for n, conn in enumerate(conns):
            conn.execute(f"SET application_name = 'client {n}'")
            conn.execute(f"SET statement_timeout = {100000 + n}")
    except errors.FeatureNotSupported as refused:
        pytest.skip(f"refused in clear words: {refused}")
    for _ in range(5):
        for n, conn in enumerate(conns):
            assert conn.execute("SHOW application_name").fetchone() == (f"client {n}",)
            assert conn.execute("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'").fetchone() == (str(100000 + n),)


def test_concurrent_clients_keep_their_own_state(connect, table, urls):
    barrier = threading.Barrier(CLIENTS)

    def client(n):
        with psycopg.connect(urls.postgres, prepare_threshold=0, connect_timeout=30) as conn:
            barrier.wait(timeout=60)
            for step in range(5):
                with conn.transaction():
                    conn.execute(f"INSERT INTO {table} VALUES (%s, %s)", [n * 100 + step, f"c{n}"])
                    seen = conn.execute(f"SELECT count(*) FROM {table} WHERE v = %s", [f"c{n}"]).fetchone()
                    assert seen == (step + 1,)
                assert conn.execute(f"SELECT 'client {n}', %s::integer", [step]).fetchone() == (f"client {n}", step)
        return n

    with ThreadPoolExecutor(CLIENTS) as threads:
        assert sorted(threads.map(client, range(CLIENTS))) == list(range(CLIENTS))
    assert connect().execute(f"SELECT count(*) FROM {table}").fetchone() == (CLIENTS * 5,)


def test_the_drivers_own_pool(urls, table):
    with psycopg_pool.ConnectionPool(
        urls.postgres, min_size=2, max_size=8, kwargs={"row_factory": dict_row}, check=psycopg_pool.ConnectionPool.check_connection
    ) as pool:

        def job(n):
            with pool.connection() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (%s, 'job')", [n])
                return conn.execute(f"SELECT id FROM {table} WHERE id = %s", [n]).fetchone()["id"]

        with ThreadPoolExecutor(16) as threads:
            assert list(threads.map(job, range(200))) == list(range(200))


def test_listens_in_and_out_of_transactions(connect, name):
    listener, notifier = connect(), connect(autocommit=True)
    heard = []
    listener.add_notify_handler(heard.append)
    listener.execute(f"LISTEN {name}")
    notifier.execute(f"NOTIFY {name}, 'before the commit'")
    listener.commit()
    notifier.execute(f"NOTIFY {name}, 'one'")
    # As with any server, what was notified before is there when a transaction ends.
    listener.execute("SELECT 1")
    listener.commit()
    found = [(notify.channel, notify.payload, notify.pid) for notify in heard]
    assert found == [(name, "one", notifier.info.backend_pid)]
    listener.execute("SELECT pg_notify(%s, 'own')", (name,))
    assert len(heard) == 1
    listener.commit()
    assert (heard[-1].payload, heard[-1].pid) == ("own", listener.info.backend_pid)
    assert listener.execute("SELECT pg_listening_channels()").fetchall() == [(name,)]
    listener.commit()
    listener.execute(f"UNLISTEN {name}")
    listener.rollback()
    notifier.execute(f"NOTIFY {name}, 'still'")
    listener.autocommit = True
    listener.execute("SELECT 1")
    assert heard[-1].payload == "still"
    listener.execute(f"UNLISTEN {name}")
    notifier.execute(f"NOTIFY {name}, 'unheard'")
    listener.execute("SELECT 1")
    assert heard[-1].payload != "unheard"


def test_many_listeners_hold_no_upstream(connect, name):
    listeners = [connect(autocommit=True) for _ in range(CLIENTS)]
    for at, conn in enumerate(listeners):
        conn.execute(f"LISTEN {name}_{at % 5}")
    notifier = connect()
    for at in range(5):
        notifier.execute(f"NOTIFY {name}_{at}, '{at}'")
    notifier.commit()
    for at, conn in enumerate(listeners):
        heard = [(notify.channel, notify.payload) for notify in conn.notifies(timeout=10, stop_after=1)]
        assert heard == [(f"{name}_{at % 5}", str(at % 5))]
    # Each still runs what it likes.
    with ThreadPoolExecutor(CLIENTS) as threads:
        assert list(threads.map(lambda conn: conn.execute("SELECT 1").fetchone(), listeners)) == [(1,)] * CLIENTS
