"""The SQL console, by unchanged drivers: PgBouncer's columns, both protocols, and what each role may do."""

import asyncio
import os
import subprocess
import threading
import urllib.error

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

from conftest import eventually
from gateways import OwnGateway

pytestmark = pytest.mark.gateway


@pytest.fixture(scope="module")
def gateway():
    with OwnGateway() as gateway:
        for kind in ("POSTGRES", "REDIS", "MONGODB"):
            gateway.register(os.environ[f"POLYPOOL_TEST_{kind}_URL"], kind.lower())
        gateway.issued = gateway.credential()
        yield gateway


def console(gateway, token=None, **options):
    given = {"host": "127.0.0.1", "port": gateway.port, "user": "anybody", "dbname": "polypool"} | options
    return psycopg.connect(password=token or gateway.token, autocommit=True, row_factory=dict_row, **given)


def client(gateway, **options):
    given = {"host": "127.0.0.1", "port": gateway.port, "user": gateway.issued["username"], "dbname": "app"} | options
    return psycopg.connect(password=gateway.issued["password"], **given)


def test_pools_clients_and_statistics_are_shown_by_pgbouncers_names(gateway):
    with client(gateway, application_name="teller") as conn, console(gateway) as admin:
        conn.execute("SELECT 1")
        pool = next(row for row in admin.execute("SHOW POOLS") if row["database"] == "postgres")
        assert (pool["cl_active"], pool["sv_active"], pool["pool_mode"]) == ("1", "1", "transaction")
        teller = next(row for row in admin.execute("SHOW CLIENTS") if row["application_name"] == "teller")
        assert (teller["type"], teller["user"], teller["protocol"]) == ("C", "app", "postgres")
        assert [row["state"] for row in admin.execute("SHOW SERVERS")] == ["active"]
        database = next(row for row in admin.execute("SHOW DATABASES") if row["name"] == "postgres")
        assert (database["database"], database["pool_size"], database["paused"]) == ("app", "20", "0")
        conn.rollback()
        before = int(next(iter(admin.execute("SHOW STATS")))["total_query_count"])
        assert before >= 2
    with console(gateway) as admin:
        eventually(lambda: not [row for row in admin.execute("SHOW CLIENTS") if row["application_name"] == "teller"])
        after = next(iter(admin.execute("SHOW STATS_TOTALS")))
        assert int(after["query_count"]) >= before, "totals must not shrink when a client leaves"
        assert "polypool" in next(iter(admin.execute("SHOW VERSION")))["version"]
        assert {row["list"] for row in admin.execute("SHOW LISTS")} >= {"databases", "used_clients", "free_servers"}
        config = {row["key"]: row["value"] for row in admin.execute("SHOW CONFIG")}
        assert config["limits.postgres.upstream_max"] == "20" and gateway.token not in config.values()


def test_each_client_shows_whether_it_has_an_upstream(gateway):
    def state():
        return next(row["state"] for row in admin.execute("SHOW CLIENTS") if row["application_name"] == "patient")

    with client(gateway, application_name="patient", autocommit=True) as conn, console(gateway) as admin:
        assert state() == "idle"
        admin.execute("PAUSE postgres")
        waiting = threading.Thread(target=conn.execute, args=("BEGIN",))
        try:
            waiting.start()
            eventually(lambda: state() == "waiting")
        finally:
            admin.execute("RESUME postgres")
            waiting.join()
        assert state() == "active"
        conn.execute("COMMIT")
        eventually(lambda: state() == "idle")


def test_the_exporters_queries_work_by_both_protocols(gateway):
    queries = ["SHOW LISTS", "SHOW CONFIG", "SHOW DATABASES", "SHOW POOLS", "SHOW STATS", "SHOW VERSION", "SHOW CLIENTS"]

    async def extended():
        conn = await asyncpg.connect(
            host="127.0.0.1", port=gateway.port, user="exporter", password=gateway.token, database="polypool", ssl=False
        )
        counts = [len(await conn.fetch(query)) for query in queries]
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await conn.fetch("SELECT 1")
        counts.append(len(await conn.fetch("SHOW VERSION")))
        await conn.close()
        return counts

    with console(gateway) as admin:
        simple = [len(list(admin.execute(query))) for query in queries]
    assert asyncio.run(extended())[:-1] == simple
    ended = subprocess.run(
        ["psql", "-XAt", "-h", "127.0.0.1", "-p", str(gateway.port), "-U", "me", "polypool", "-c", "show version; show lists"],
        env=os.environ | {"PGPASSWORD": gateway.token}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "polypool" in ended.stdout and "used_clients" in ended.stdout


def test_a_role_allows_what_it_says(gateway):
    made = {role: gateway.api("POST", "/tokens", {"name": role, "role": role})["token"] for role in ("viewer", "operator")}
    with console(gateway, made["viewer"]) as admin:
        assert list(admin.execute("SHOW POOLS"))
        with pytest.raises(psycopg.OperationalError, match="'operator' is needed"):
            admin.execute("PAUSE")
    with console(gateway, made["operator"]) as admin:
        assert admin.execute("RECONNECT").statusmessage == "RECONNECT"
        with pytest.raises(psycopg.OperationalError, match="'owner' is needed"):
            admin.execute("RELOAD")
    for wrong in ("nonsense", gateway.issued["password"]):
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            console(gateway, wrong)


def test_pause_waits_for_transactions_and_holds_new_ones_back(gateway):
    with client(gateway) as conn, console(gateway) as admin, client(gateway, application_name="late") as late:
        conn.execute("SELECT 1")
        done = threading.Thread(target=lambda: admin.execute("PAUSE postgres"))
        done.start()
        with console(gateway) as other:
            paused = lambda: next(row for row in other.execute("SHOW POOLS") if row["database"] == "postgres")
            eventually(lambda: paused()["paused"] == "1")
            assert done.is_alive(), "PAUSE returned while a transaction was open"
            conn.commit()
            done.join(10)
            assert not done.is_alive() and paused()["sv_idle"] == "0"
            asked = threading.Thread(target=lambda: late.execute("SELECT 1"))
            asked.start()
            eventually(lambda: paused()["cl_waiting"] == "1")
            other.execute("RESUME postgres")
            asked.join(10)
            assert not asked.is_alive()
            with pytest.raises(psycopg.OperationalError, match="cannot be held back"):
                other.execute("PAUSE redis")
            with pytest.raises(psycopg.OperationalError, match="no database"):
                other.execute("PAUSE nothing")


def test_reconnect_replaces_upstreams_and_kill_ends_clients(gateway):
    pid = lambda conn: conn.execute("SELECT pg_backend_pid()").fetchone()[0]
    with client(gateway, autocommit=True) as conn, console(gateway) as admin:
        before = pid(conn)
        assert pid(conn) == before
        admin.execute("RECONNECT postgres")
        assert pid(conn) != before
        number = next(row for row in admin.execute("SHOW CLIENTS") if row["database"] == "postgres")["id"]
        admin.execute(f"KILL_CLIENT {number}")
        with pytest.raises(psycopg.errors.AdminShutdown):
            eventually(lambda: conn.execute("SELECT 1") and False)
    with client(gateway, autocommit=True) as conn, console(gateway) as admin:
        admin.execute("KILL postgres")
        with pytest.raises(psycopg.errors.AdminShutdown):
            eventually(lambda: conn.execute("SELECT 1") and False)


def test_the_admin_api_pauses_drains_and_resumes(gateway):
    with client(gateway, autocommit=True) as conn:
        conn.execute("SELECT 1")
        assert gateway.api("POST", "/databases/postgres/pause", {})["pool"]["paused"] is True
        assert gateway.api("POST", "/databases/postgres/drain", {})["pool"]["upstreams_idle"] == 0
        assert gateway.api("POST", "/databases/postgres/resume", {})["pool"]["paused"] is False
        conn.execute("SELECT 1")
        with pytest.raises(urllib.error.HTTPError) as refused:
            gateway.api("POST", "/databases/redis/drain", {})
        assert refused.value.code == 409
        operations = [row["operation"] for row in gateway.api("GET", "/audit")]
        assert {"pause", "drain", "resume"} <= set(operations)
