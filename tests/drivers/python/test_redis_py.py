"""redis-py, unchanged, with RESP2 and with RESP3: every type, pipelines, WATCH, blocking, pub/sub, scripts, many clients."""

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
import redis.asyncio

from conftest import eventually

CLIENTS = 100


def with_database(url, db):
    """The URL of another numbered database; the driver lets the path win over its own argument."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{db}"))


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def connect(request, urls):
    """Makes clients of one protocol version that are closed when the test ends."""
    opened = []

    def make(**options):
        options.setdefault("protocol", request.param)
        url = with_database(urls.redis, options.pop("db", 0))
        client = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=20, **options)
        opened.append(client)
        return client

    make.protocol = request.param
    yield make
    for client in opened:
        client.close()


@pytest.fixture
def r(connect):
    return connect()


@pytest.fixture
def key(connect, name):
    """A prefix for keys, all of which are deleted at the end."""
    yield name
    for db in (0, 3):
        client = connect(db=db)
        keys = list(client.scan_iter(match=f"{name}*", count=1000))
        if keys:
            client.delete(*keys)


def blocked_clients(client):
    """Of the clients that one can see: on the server those that share a wait are one."""
    return sum(1 for c in client.client_list() if "b" in c["flags"])


def test_connects_with_its_protocol(connect):
    client = connect(single_connection_client=True)
    assert client.ping() is True
    hello = client.execute_command("HELLO")
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2]))
    assert hello[b"proto"] == connect.protocol
    assert hello[b"server"] == b"redis"
    assert client.echo("déjà") == "déjà".encode()


def test_strings(r, key):
    every_byte = bytes(range(256))
    assert r.set(key, every_byte) is True
    assert r.get(key) == every_byte
    assert r.set(key, "x", nx=True) is None
    assert r.get(f"{key}:absent") is None
    assert r.append(key, b"!") == 257
    assert r.getrange(key, 254, 256) == b"\xfe\xff!"
    assert r.mset({f"{key}:a": "1", f"{key}:b": ""}) is True
    assert r.mget(f"{key}:a", f"{key}:b", f"{key}:c") == [b"1", b"", None]
    assert r.incrby(f"{key}:a", 41) == 42
    assert r.expire(key, 100) and 0 < r.ttl(key) <= 100
    assert r.getdel(key) == every_byte + b"!"
    assert r.exists(key) == 0


def test_hashes(r, key):
    assert r.hset(key, mapping={"a": 1, "b": "", "ü": "ß"}) == 3
    assert r.hgetall(key) == {b"a": b"1", b"b": b"", "ü".encode(): "ß".encode()}
    assert r.hmget(key, "a", "z") == [b"1", None]
    assert r.hincrbyfloat(key, "a", 0.5) == 1.5
    assert dict(r.hscan_iter(key)) == r.hgetall(key)
    assert r.hgetall(f"{key}:absent") == {}


def test_lists(r, key):
    assert r.rpush(key, *range(10)) == 10
    assert r.lrange(key, -3, -1) == [b"7", b"8", b"9"]
    assert r.lpop(key, 2) == [b"0", b"1"]
    assert r.lmove(key, f"{key}:other", "LEFT", "RIGHT") == b"2"
    assert r.lrange(f"{key}:absent", 0, -1) == []


def test_sets(r, key):
    assert r.sadd(key, "a", "b", "c") == 3
    assert r.sadd(f"{key}:2", "b", "c", "d") == 3
    assert r.smembers(key) == {b"a", b"b", b"c"}
    assert r.sinter(key, f"{key}:2") == {b"b", b"c"}
    assert r.smismember(key, ["a", "z"]) == [1, 0]


def test_sorted_sets(r, key):
    assert r.zadd(key, {"a": 1.5, "b": -3, "c": float("inf")}) == 3
    assert r.zscore(key, "a") == 1.5
    assert r.zscore(key, "c") == float("inf")
    assert [tuple(pair) for pair in r.zrange(key, 0, -1, withscores=True)] == [(b"b", -3.0), (b"a", 1.5), (b"c", float("inf"))]
    assert r.zrangebyscore(key, "-inf", 2) == [b"b", b"a"]


def test_streams(r, key):
    ids = [r.xadd(key, {"n": n}) for n in range(5)]
    assert [entry[0] for entry in r.xrange(key)] == ids
    assert r.xgroup_create(key, "group", id="0") is True
    assert r.xreadgroup("group", "consumer", {key: ">"}, count=3)
    assert r.xpending(key, "group")["pending"] == 3
    assert r.xack(key, "group", *ids[:3]) == 3
    assert r.xlen(key) == 5


def test_blocking_stream_read_wakes_up(connect, key):
    reader, writer = connect(), connect()
    with ThreadPoolExecutor(1) as thread:
        before = blocked_clients(writer)
        waiting = thread.submit(reader.xread, {key: "$"}, block=20000)
        eventually(lambda: blocked_clients(writer) > before)
        writer.xadd(key, {"woken": "yes"})
        assert b"yes" in str(waiting.result()).encode()


@pytest.mark.parametrize("transaction", [True, False], ids=["multi", "plain"])
def test_pipeline_of_a_thousand(r, key, transaction):
    pipe = r.pipeline(transaction=transaction)
    for n in range(500):
        pipe.set(f"{key}:{n}", n)
        pipe.get(f"{key}:{n}")
    assert pipe.execute() == [reply for n in range(500) for reply in (True, str(n).encode())]


def test_errors_in_pipelines_keep_their_place(r, key):
    r.set(key, "a string")
    for transaction in (True, False):
        pipe = r.pipeline(transaction=transaction)
        pipe.incr(f"{key}:n").lpush(key, "x").incr(f"{key}:n")
        first, wrong, last = pipe.execute(raise_on_error=False)
        assert last == first + 1
        assert isinstance(wrong, redis.ResponseError) and str(wrong).startswith("WRONGTYPE")


def test_replies_keep_the_order_of_their_commands(r, key):
    # What a gateway answers itself, what it shares and what it must hold a connection for, in one packet.
    pipe = r.pipeline(transaction=False)
    pipe.ping().set(key, 1).rpush(f"{key}:l", "a", "b").blpop(f"{key}:l", timeout=5).echo("local").incr(key)
    pipe.execute_command("MULTI").incr(key).incr(key).execute_command("EXEC")
    pipe.client_id().blpop(f"{key}:l", timeout=5).get(key)
    replies = pipe.execute()
    assert replies[:3] == [True, True, 2]
    assert [bytes(part) for part in replies[3]] == [f"{key}:l".encode(), b"a"]
    assert replies[4:6] == [b"local", 2]
    assert replies[9] == [3, 4]
    assert isinstance(replies[10], int)
    assert [bytes(part) for part in replies[11]] == [f"{key}:l".encode(), b"b"]
    assert replies[12] == b"4"


def test_watch_notices_a_conflict(connect, key):
    one, other = connect(), connect()
    one.set(key, 1)
    with one.pipeline() as pipe:
        pipe.watch(key)
        seen = int(pipe.get(key))
        other.set(key, 10)
        pipe.multi()
        pipe.set(key, seen + 1)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert one.get(key) == b"10"
    assert one.transaction(lambda p: (p.multi(), p.incr(key)), key) == [11]


def test_multi_with_a_bad_command_is_discarded(connect, key):
    client = connect(single_connection_client=True)
    client.execute_command("MULTI")
    client.execute_command("SET", key, "never")
    with pytest.raises(redis.ResponseError):
        client.execute_command("NOSUCHCOMMAND")
    with pytest.raises(redis.ResponseError, match="EXECABORT|Transaction discarded"):
        client.execute_command("EXEC")
    assert client.get(key) is None
    client.execute_command("MULTI")
    client.execute_command("SET", key, "never")
    client.execute_command("DISCARD")
    assert client.get(key) is None


def test_blocking_pop_is_served_by_another_client(connect, key):
    popper, pusher = connect(), connect()
    with ThreadPoolExecutor(1) as thread:
        before = blocked_clients(pusher)
        waiting = thread.submit(popper.blpop, [f"{key}:a", f"{key}:b"], timeout=20)
        eventually(lambda: blocked_clients(pusher) > before)
        pusher.rpush(f"{key}:b", "served")
        assert [bytes(part) for part in waiting.result()] == [f"{key}:b".encode(), b"served"]
    assert pusher.exists(f"{key}:b") == 0


def test_blocking_pop_times_out(r, key):
    assert r.blpop(key, timeout=0.1) is None
    assert r.bzpopmin(key, timeout=0.1) is None
    assert r.blmove(key, f"{key}:other", timeout=0.1) is None
    assert r.ping() is True


def test_blocked_clients_do_not_block_others(connect, key):
    poppers = [connect() for _ in range(5)]
    other = connect()
    with ThreadPoolExecutor(5) as threads:
        before = blocked_clients(other)
        waiting = [threads.submit(popper.blpop, key, timeout=20) for popper in poppers]
        eventually(lambda: blocked_clients(other) >= before + 5)
        for n in range(100):
            assert other.set(f"{key}:{n}", n)
        other.rpush(key, *range(5))
        assert sorted(int(w.result()[1]) for w in waiting) == list(range(5))


def test_publish_and_subscribe(connect, key):
    publisher = connect()
    with connect().pubsub() as pubsub:
        pubsub.subscribe(f"{key}:one", f"{key}:two")
        pubsub.psubscribe(f"{key}:p*")
        confirmed = [pubsub.get_message(timeout=10) for _ in range(3)]
        assert [(m["type"], m["data"]) for m in confirmed] == [("subscribe", 1), ("subscribe", 2), ("psubscribe", 3)]
        assert publisher.publish(f"{key}:one", "first") == 1
        assert publisher.publish(f"{key}:pattern", b"\x00second") == 1
        first, second = pubsub.get_message(timeout=10), pubsub.get_message(timeout=10)
        assert (first["type"], first["channel"], first["data"]) == ("message", f"{key}:one".encode(), b"first")
        assert (second["type"], second["pattern"], second["data"]) == ("pmessage", f"{key}:p*".encode(), b"\x00second")
        pubsub.unsubscribe(f"{key}:one")
        assert pubsub.get_message(timeout=10)["type"] == "unsubscribe"
        assert publisher.publish(f"{key}:one", "nobody listens") == 0
        pubsub.ping()
        assert pubsub.get_message(timeout=10)["type"] == "pong"


def test_scan_finds_every_key(r, key):
    names = {f"{key}:{n}".encode() for n in range(1000)}
    r.mset({name: b"" for name in names})
    assert set(r.scan_iter(match=f"{key}:*", count=100)) == names


def test_scripts(r, key):
    source = f"-- {key}\nredis.call('SET', KEYS[1], ARGV[1]); return {{1, 'two', redis.call('GET', KEYS[1])}}"
    with pytest.raises(redis.exceptions.NoScriptError):
        r.evalsha(hashlib.sha1(source.encode()).hexdigest(), 1, key, "v")
    script = r.register_script(source)
    assert script(keys=[key], args=["v"]) == [1, b"two", b"v"]
    assert r.evalsha(script.sha, 1, key, "w") == [1, b"two", b"w"]
    assert r.eval("return redis.status_reply('FINE')", 0) == b"FINE"
    with pytest.raises(redis.ResponseError, match="own words"):
        r.eval("return redis.error_reply('ERR own words')", 0)


def test_select_keeps_databases_apart(connect, key):
    zero, three = connect(db=0), connect(db=3)
    for _ in range(3):
        assert zero.set(key, "zero") and three.set(key, "three")
        assert (zero.get(key), three.get(key)) == (b"zero", b"three")
    wanderer = connect(single_connection_client=True)
    for db, value in ((3, b"three"), (0, b"zero"), (3, b"three")):
        assert wanderer.execute_command("SELECT", db)
        assert wanderer.get(key) == value
    with pytest.raises(redis.ResponseError):
        wanderer.execute_command("SELECT", 100000)
    assert wanderer.get(key) == b"three"


def test_client_name_and_id_are_each_clients_own(connect):
    clients = [connect(single_connection_client=True) for _ in range(5)]
    for n, client in enumerate(clients):
        assert client.client_setname(f"client-{n}") is True
    for _ in range(3):
        names = [client.client_getname() for client in clients]
        assert [n.decode() if isinstance(n, bytes) else n for n in names] == [f"client-{n}" for n in range(5)]
    ids = [client.client_id() for client in clients]
    assert len(set(ids)) == 5 and ids == [client.client_id() for client in clients]


def test_wrong_commands_are_answered_and_harmless(r, key):
    with pytest.raises(redis.ResponseError, match="unknown command"):
        r.execute_command("NOSUCHCOMMAND", "a")
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        r.execute_command("GET")
    r.set(key, "x")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        r.incr(key)
    assert r.get(key) == b"x"


def test_large_values(r, key):
    value = bytes(range(256)) * 4096
    assert r.set(key, value) and r.get(key) == value
    pipe = r.pipeline(transaction=False)
    for n in range(12):
        pipe.set(f"{key}:{n}", value)
        pipe.get(f"{key}:{n}")
    assert pipe.execute()[1::2] == [value] * 12


def test_the_drivers_own_pool(urls, connect, key):
    pool = redis.BlockingConnectionPool.from_url(urls.redis, max_connections=5, timeout=30, protocol=connect.protocol)
    client = redis.Redis(connection_pool=pool)
    with ThreadPoolExecutor(20) as threads:
        assert sorted(threads.map(lambda _: client.incr(key), range(400))) == list(range(1, 401))
    client.close()
    pool.disconnect()


async def test_a_hundred_clients_at_once(urls, connect, key):
    everyone = asyncio.Barrier(CLIENTS)

    async def run(n):
        client = redis.asyncio.Redis.from_url(
            with_database(urls.redis, 3 if n % 2 else 0),
            protocol=connect.protocol,
            single_connection_client=True,
            socket_timeout=60,
        )
        async with client:
            await client.client_setname(f"n{n}")
            await everyone.wait()
            for step in range(10):
                pipe = client.pipeline(transaction=step % 2 == 0)
                pipe.set(f"{key}:{n}", f"{n}.{step}").get(f"{key}:{n}").incr(f"{key}:all")
                assert (await pipe.execute())[1] == f"{n}.{step}".encode()
            assert await client.client_getname() in (f"n{n}", f"n{n}".encode())

    await asyncio.gather(*(run(n) for n in range(CLIENTS)))
    assert [int(connect(db=db).get(f"{key}:all")) for db in (0, 3)] == [CLIENTS * 5, CLIENTS * 5]


def test_threads_share_one_client(r, key):
    failures = []

    def work(n):
        for step in range(50):
            r.set(f"{key}:{n}", step)
            if r.get(f"{key}:{n}") != str(step).encode():
                failures.append((n, step))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
