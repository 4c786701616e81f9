"""Five hundred clients at once on each protocol, and the servers' own counts of connections while they work."""

import asyncio
import threading
from urllib.parse import urlsplit

import psycopg
import pymongo
import pytest
import redis
import redis.asyncio
from pymongo import monitoring

from conftest import MONGODB_DATABASE, own_connections

pytestmark = pytest.mark.gateway

CLIENTS = 500
STEPS = 5
# Logins cost the client's side a key derivation each; so many at a time leave the two sides busy and nobody waiting long.
LOGINS_AT_ONCE = 25
POSTGRES_MAX, REDIS_MAX, MONGODB_MAX = 20, 10, 10


class Watch:
    """Samples a count in a thread of its own, from a direct connection, and keeps the highest."""

    def __init__(self, sample):
        self.sample, self.highest, self.samples = sample, 0, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.wait(0.02):
            self.highest = max(self.highest, self.sample())
            self.samples += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


async def all_at_once(login, work):
    """Logs everyone in, then lets everyone work together."""
    gate = asyncio.Semaphore(LOGINS_AT_ONCE)

    async def enter(n):
        async with gate:
            return await login(n)

    clients = await asyncio.gather(*(enter(n) for n in range(CLIENTS)))
    await asyncio.gather(*(work(n, client) for n, client in enumerate(clients)))
    return clients


async def test_postgres_stays_within_its_pool(urls):
    with psycopg.connect(urls.direct_postgres, autocommit=True) as direct:
        count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'"
        with Watch(lambda: direct.execute(count).fetchone()[0]) as watch:

            async def login(n):
                return await psycopg.AsyncConnection.connect(urls.postgres, autocommit=True, connect_timeout=60)

            async def work(n, conn):
                for step in range(STEPS):
                    async with conn.transaction():
                        cur = await conn.execute("SELECT %s::integer, pg_sleep(0.002)::text", [n * STEPS + step])
                        assert (await cur.fetchone())[0] == n * STEPS + step

            clients = await all_at_once(login, work)
        for conn in clients:
            await conn.close()
    print(f"highest count of {watch.samples} samples: {watch.highest}")
    assert watch.samples > 10 and 0 < watch.highest <= POSTGRES_MAX


async def test_redis_stays_within_its_pool(urls, name):
    with redis.Redis.from_url(urls.direct_redis, single_connection_client=True) as direct:
        with Watch(lambda: len(direct.client_list()) - 1) as watch:

            async def login(n):
                client = redis.asyncio.Redis.from_url(urls.redis, single_connection_client=True, socket_timeout=60)
                await client.ping()
                return client

            async def work(n, client):
                for step in range(STEPS):
                    # Ordinary commands, a transaction with WATCH, and a blocking pop, which hold connections differently.
                    assert await client.set(f"{name}:{n}", step)
                    for command in (["WATCH", f"{name}:{n}"], ["MULTI"], ["INCR", f"{name}:{n}"]):
                        await client.execute_command(*command)
                    assert await client.execute_command("EXEC") == [step + 1]
                    await client.rpush(f"{name}:l{n}", step)
                    assert await client.blpop(f"{name}:l{n}", timeout=30)
                await client.delete(f"{name}:{n}")

            clients = await all_at_once(login, work)
        for client in clients:
            await client.aclose()
    print(f"highest count of {watch.samples} samples: {watch.highest}")
    assert watch.samples > 10 and 0 < watch.highest <= REDIS_MAX


class Ready(monitoring.ConnectionPoolListener):
    """Counts the driver's connections that have logged in."""

    def __init__(self):
        self.count = 0

    def connection_ready(self, event):
        self.count += 1

    def nothing(self, event):
        pass

    pool_created = pool_ready = pool_cleared = pool_closed = nothing
    connection_created = connection_closed = nothing
    connection_check_out_started = connection_check_out_failed = connection_checked_out = connection_checked_in = nothing


async def test_mongodb_stays_within_its_pool(urls, name):
    port = urlsplit(urls.direct_mongodb).port
    ready = Ready()
    # Polling, the driver keeps one connection for monitoring; streaming, it would open another at some time.
    with pymongo.MongoClient(urls.direct_mongodb, maxPoolSize=1, serverMonitoringMode="poll") as direct:
        direct.admin.command("ping")
        own = own_connections(port)

        def others():
            return direct.admin.command("serverStatus")["connections"]["current"] - own

        # One driver with so many connections; each connection is a client of the gateway.
        many = pymongo.AsyncMongoClient(
            urls.mongodb, minPoolSize=CLIENTS, maxPoolSize=CLIENTS, maxConnecting=LOGINS_AT_ONCE, event_listeners=[ready]
        )
        with Watch(others) as watch:
            coll = many[MONGODB_DATABASE][name]
            await coll.insert_one({"_id": "first"})
            async with asyncio.timeout(120):
                while ready.count < CLIENTS:
                    await asyncio.sleep(0.05)

            async def work(n):
                for step in range(STEPS):
                    await coll.insert_one({"_id": f"{n}.{step}", "n": n})
                    assert len([d async for d in coll.find({"n": n}, batch_size=2)]) == step + 1

            await coll.create_index("n")
            await asyncio.gather(*(work(n) for n in range(CLIENTS)))
            assert await coll.count_documents({}) == CLIENTS * STEPS + 1
            await coll.drop()
        await many.close()
    print(f"highest count of {watch.samples} samples: {watch.highest}")
    assert watch.samples > 10 and 0 < watch.highest <= MONGODB_MAX
