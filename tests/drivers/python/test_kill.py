"""Clients killed by SIGKILL in the middle of things: nothing stays open, nothing is lost, every lease comes back."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pymongo
import pytest
import redis

from conftest import MONGODB_DATABASE, Child, eventually

# What a tenant may hold at most, by the defaults.
POSTGRES_POOL, MONGODB_POOL = 20, 10
# More than a pool of ten has connections: clients that block on the same keys share one.
REDIS_POPPERS = 30

TRANSACTIONS = """
import sys, psycopg
url, table, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
conns = [psycopg.connect(url) for _ in range(count)]
for n, conn in enumerate(conns):
    conn.execute(f"SELECT v FROM {table} WHERE id = %s FOR UPDATE", [n])
    conn.execute(f"UPDATE {table} SET v = 'of the dead' WHERE id = %s", [n])
print("ready", flush=True)
sys.stdin.read()
"""

LONG_QUERY = """
import sys, psycopg
conn = psycopg.connect(sys.argv[1])
print("ready", flush=True)
conn.execute(f"SELECT pg_sleep(600) /* {sys.argv[2]} */")
"""

POPPERS = """
import sys, threading, redis
url, key, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
clients = [redis.Redis.from_url(url) for _ in range(count)]
for client in clients:
    client.ping()
    threading.Thread(target=client.blpop, args=(key, 0)).start()
print("ready", flush=True)
"""

FINDS = """
import sys, pymongo
url, database, name, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
clients = [pymongo.MongoClient(url) for _ in range(count)]
cursors = [client[database][name].find(batch_size=2) for client in clients]
for cursor in cursors:
    for _ in range(3):
        next(cursor)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def superuser(urls):
    with psycopg.connect(urls.direct_postgres, autocommit=True) as conn:
        yield conn


@pytest.fixture
def table(superuser, name):
    superuser.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY, v text)")
    superuser.execute(f"INSERT INTO {name} SELECT n, 'untouched' FROM generate_series(0, 99) n")
    superuser.execute(f"ALTER TABLE {name} OWNER TO app")
    yield name
    superuser.execute(f"SET lock_timeout = '10s'; DROP TABLE {name}")


@pytest.mark.parametrize("count", [1, POSTGRES_POOL], ids=["one", "a pool full"])
def test_transaction_of_a_dead_client_ends(urls, superuser, table, count):
    def idle_in_transaction():
        query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%' AND query LIKE %s"
        return superuser.execute(query, [f"%{table}%"]).fetchone()[0]

    with Child(TRANSACTIONS, urls.postgres, table, str(count)) as child:
        child.wait_ready()
        assert idle_in_transaction() == count
        child.kill()
        eventually(lambda: idle_in_transaction() == 0)
    superuser.execute("SET lock_timeout = '10s'")
    assert superuser.execute(f"SELECT v FROM {table} WHERE id = 0 FOR UPDATE").fetchone() == ("untouched",)

    def work(n):
        with psycopg.connect(urls.postgres, connect_timeout=30) as conn:
            return conn.execute(f"UPDATE {table} SET v = 'of the living' WHERE id = %s", [n]).rowcount

    with ThreadPoolExecutor(POSTGRES_POOL) as threads:
        assert list(threads.map(work, range(2 * POSTGRES_POOL))) == [1] * (2 * POSTGRES_POOL)


@pytest.mark.gateway  # PostgreSQL itself does not look for a vanished client while a statement runs
def test_long_query_of_a_dead_client_ends(urls, superuser, name):
    def running():
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
        return superuser.execute(query, [f"%{name}%"]).fetchone()[0]

    with Child(LONG_QUERY, urls.postgres, name) as child:
        child.wait_ready()
        eventually(lambda: running() == 1)
        child.kill()
        eventually(lambda: running() == 0)


@pytest.mark.parametrize("count", [1, REDIS_POPPERS], ids=["one", "three pools full"])
def test_blocking_pop_of_a_dead_client_takes_nothing(urls, name, count):
    direct = redis.Redis.from_url(urls.direct_redis)
    watcher = redis.Redis.from_url(urls.redis)

    def blocked():
        return sum(1 for c in watcher.client_list() if c["cmd"] == "blpop" and "b" in c["flags"])

    with direct, watcher, Child(POPPERS, urls.redis, name, str(count)) as child:
        child.wait_ready()
        eventually(lambda: blocked() == count)
        with redis.Redis.from_url(urls.redis, socket_timeout=30) as living, ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(living.blpop, name, timeout=20)
            eventually(lambda: blocked() == count + 1)
            child.kill()
            eventually(lambda: blocked() == 1)
            direct.rpush(name, "first", "second", "third")
            assert waiting.result()[1] == b"first"
            assert living.lrange(name, 0, -1) == [b"second", b"third"]
            # As many blocking pops at once are served again, each with an element of its own.
            direct.delete(name)
            with ThreadPoolExecutor(REDIS_POPPERS) as poppers:
                again = [poppers.submit(living.blpop, name, timeout=20) for _ in range(REDIS_POPPERS)]
                eventually(lambda: blocked() == REDIS_POPPERS)
                direct.rpush(name, *range(REDIS_POPPERS))
                assert sorted(int(a.result()[1]) for a in again) == list(range(REDIS_POPPERS))
            assert direct.exists(name) == 0


def test_find_of_dead_clients_leaks_no_lease(urls, name):
    with pymongo.MongoClient(urls.mongodb, serverSelectionTimeoutMS=30000) as client:
        coll = client[MONGODB_DATABASE][name]
        coll.insert_many([{"_id": n} for n in range(100)])
        try:
            with Child(FINDS, urls.mongodb, MONGODB_DATABASE, name, str(2 * MONGODB_POOL)) as child:
                child.wait_ready()
                child.kill()
            with ThreadPoolExecutor(2 * MONGODB_POOL) as threads:
                found = threads.map(lambda n: len(list(coll.find({"_id": {"$lt": n}}, batch_size=7))), range(5 * MONGODB_POOL))
                assert list(found) == list(range(5 * MONGODB_POOL))
        finally:
            coll.drop()
