"""Timeouts and pool modes of PostgreSQL databases, as registrations and the configuration set them."""

import os
import time

import psycopg
import pytest
from psycopg import errors

from gateways import OwnGateway

pytestmark = pytest.mark.gateway
URL = "POLYPOOL_TEST_POSTGRES_URL"


@pytest.fixture(scope="module")
def gateway():
    with OwnGateway('[postgres]\nclient_idle_max = "600ms"\n') as gateway:
        own = {"query_max": "300ms", "transaction_idle_max": "300ms", "client_idle_max": "1h"}
        gateway.register(os.environ[URL], "timed", project="timed", config=own)
        gateway.register(os.environ[URL], "plain", project="plain")
        gateway.register(os.environ[URL], "single", project="single", pool_mode="statement", config={"client_idle_max": "1h"})
        gateway.register(os.environ[URL], "whole", project="whole", pool_mode="session", config={"client_idle_max": "1h"})
        yield gateway


def connect(gateway, project, **options):
    issued = gateway.credential(project=project, user=f"u{time.monotonic_ns()}")
    given = {"host": "127.0.0.1", "port": gateway.port, "user": issued["username"], "dbname": "app"} | options
    return psycopg.connect(password=issued["password"], **given)


def test_a_query_that_takes_too_long_is_cancelled_and_the_session_goes_on(gateway):
    with connect(gateway, "timed", autocommit=True) as conn:
        with pytest.raises(errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(30)")
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_long_pause_in_a_transaction_ends_the_session_and_rolls_back(gateway):
    with connect(gateway, "timed") as conn:
        conn.execute("SELECT 1")
        time.sleep(0.8)
        with pytest.raises(errors.IdleInTransactionSessionTimeout):
            conn.execute("SELECT 1")


def test_queries_in_a_transaction_restart_its_clock(gateway):
    with connect(gateway, "timed") as conn:
        for _ in range(6):
            conn.execute("SELECT pg_sleep(0.1)")
            time.sleep(0.1)


def test_a_long_pause_ends_the_session_where_the_configuration_says_so(gateway):
    with connect(gateway, "plain", autocommit=True) as conn, connect(gateway, "timed", autocommit=True) as timed:
        for _ in range(5):
            conn.execute("SELECT 1")
            time.sleep(0.2)
        time.sleep(1)
        with pytest.raises(errors.IdleSessionTimeout):
            conn.execute("SELECT 1")
        assert timed.execute("SELECT 1").fetchone() == (1,), "the registration says otherwise"


def test_statement_mode_refuses_transactions_and_nothing_else(gateway):
    with connect(gateway, "single", autocommit=True) as conn:
        assert conn.execute("SELECT %s::int", [7], prepare=True).fetchone() == (7,)
        for text in ("BEGIN", "START TRANSACTION", "SELECT 1; BEGIN"):
            with pytest.raises(errors.FeatureNotSupported, match="transaction block"):
                conn.execute(text)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_session_mode_keeps_one_upstream(gateway):
    with connect(gateway, "whole", autocommit=True) as one, connect(gateway, "whole", autocommit=True) as two:
        pid = lambda conn: conn.execute("SELECT pg_backend_pid()").fetchone()[0]
        one.execute("CREATE TEMP TABLE kept (n int)")
        before = pid(one)
        assert pid(two) != before and pid(one) == before
        one.execute("SELECT * FROM kept")


def test_a_timeout_that_is_none_is_refused_at_registration(gateway):
    import urllib.error

    with pytest.raises(urllib.error.HTTPError) as refused:
        gateway.register(os.environ[URL], "wrong", project="wrong", config={"query_max": 30})
    assert refused.value.code == 400


def test_replication_connections_are_refused_in_clear_words(gateway):
    with pytest.raises(psycopg.OperationalError, match="replication"):
        connect(gateway, "plain", replication="database")
