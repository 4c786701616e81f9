"""The proof that `mongodb-drivers` describes."""

import collections
import concurrent.futures
import multiprocessing
import os
import sys
import time

import pymongo
from pymongo.uri_parser import parse_uri

from gateway import Memory, gateway_pid

DRIVERS = int(os.environ.get("POLYPOOL_PROOF_DRIVERS", "500"))
PER_PROCESS = 50
POOL = 10
UPSTREAM_MAX = 10
CONNECTED_WITHIN = 300
# Each member of a set may be watched by two connections.
MONITORS_MAX = 2
URL = os.environ.get("POLYPOOL_URL_MONGODB_SET") or os.environ["POLYPOOL_URL_MONGODB"]
SERVER_URL = os.environ.get("POLYPOOL_TEST_MONGODB_SET_URL") or os.environ["POLYPOOL_TEST_MONGODB_URL"]


def drive(number, count, ready, go, results):
    """One process: `count` drivers."""
    clients = [
        pymongo.MongoClient(URL, minPoolSize=POOL, maxPoolSize=POOL, serverSelectionTimeoutMS=60_000, appname=f"{number}-{index}")
        for index in range(count)
    ]  # fmt: skip
    deadline = time.monotonic() + CONNECTED_WITHIN
    for client in clients:
        client.admin.command("ping")
    while time.monotonic() < deadline and any(idle(client) < POOL for client in clients):
        time.sleep(0.1)
    ready.put(sum(idle(client) for client in clients))
    go.wait()
    outcomes = collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(count * POOL) as threads:
        works = [
            threads.submit(work, client, f"{number}-{index}-{turn}")
            for index, client in enumerate(clients)
            for turn in range(POOL)
        ]
        for done in works:
            error = done.exception()
            outcomes["right" if error is None else f"{type(error).__name__}: {error}"[:200]] += 1
    results.put(outcomes)


def idle(client):
    servers = client._topology._servers.values()
    return sum(len(server.pool.conns) for server in servers)


def work(client, key):
    collection = client.get_default_database().proof_drivers
    collection.insert_one({"_id": key})
    found = collection.find_one({"_id": key})
    if found != {"_id": key}:
        raise RuntimeError(f"{key}: found {found}")


def members():
    parsed = parse_uri(SERVER_URL)
    login = {"username": parsed["username"], "password": parsed["password"], "authSource": "admin"}
    return [
        pymongo.MongoClient(host, port, directConnection=True, readPreference="primaryPreferred", **login)
        for host, port in parsed["nodelist"]
    ]


def gateway_connections(servers):
    """Connections of the gateway at each server: those that log in, and those that only watch."""
    counts = []
    for server in servers:
        stages = [{"$currentOp": {"allUsers": True, "idleConnections": True}}]
        found = [
            operation for operation in server.admin.aggregate(stages)
            if operation.get("clientMetadata", {}).get("driver", {}).get("name") == "polypool"
        ]  # fmt: skip
        lent = sum(1 for operation in found if operation.get("effectiveUsers"))
        counts.append((lent, len(found) - lent))
    return counts


def main():
    servers = members()
    memory = Memory(gateway_pid(URL))
    before = memory.now_mb()
    processes = max(1, DRIVERS // PER_PROCESS)
    each = DRIVERS // processes
    context = multiprocessing.get_context("spawn")
    ready, results, go = context.Queue(), context.Queue(), context.Event()
    drivers = [context.Process(target=drive, args=(number, each, ready, go, results)) for number in range(processes)]
    began = time.monotonic()
    for driver in drivers:
        driver.start()
    connected = sum(ready.get(timeout=CONNECTED_WITHIN + 120) for _ in drivers)
    print(f"{processes * each} drivers hold {connected} connections after {time.monotonic() - began:.0f} s", flush=True)
    print(f"resident memory of the gateway: {before:.0f} MB, now {memory.now_mb():.0f} MB", flush=True)

    began = time.monotonic()
    go.set()
    lent_most, watching_most, looks = 0, 0, 0
    outcomes = collections.Counter()
    arrived = 0
    while arrived < processes:
        counts = gateway_connections(servers)
        looks += 1
        lent_most = max(lent_most, sum(lent for lent, _ in counts))
        watching_most = max(watching_most, sum(watching for _, watching in counts))
        while not results.empty():
            outcomes += results.get()
            arrived += 1
    for driver in drivers:
        driver.join()
    print(f"{sum(outcomes.values())} writes read back in {time.monotonic() - began:.0f} s: {dict(outcomes)}")
    print(f"the servers saw at most {lent_most} connections in use and {watching_most} watching, in {looks} looks at {len(servers)}")
    holds = [
        connected == processes * each * POOL,
        set(outcomes) == {"right"},
        0 < lent_most <= UPSTREAM_MAX,
        watching_most <= MONITORS_MAX * len(servers),
    ]
    print("HOLDS" if all(holds) else f"DOES NOT HOLD: {holds}")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
