"""The proof that `mongodb-bulk` describes."""

import hashlib
import os
import random
import struct
import sys
import threading
import time

import bson
import pymongo
from bson.raw_bson import RawBSONDocument

from gateway import Memory, gateway_pid

MB = 1024 * 1024
TOTAL_MB = int(os.environ.get("POLYPOOL_PROOF_MB", "1024"))
# Three such documents make a message that is just under the protocol's 48,000,000 bytes; the others are of ordinary sizes.
LARGE_BYTES = 15_980_000
GROWTH_MAX_MB = 64
CLIENTS_AT_ONCE = 3


def documents(seed, total_mb):
    """Batches of documents, each batch one message; random bytes, so that nothing is equal by accident."""
    source = random.Random(seed)
    key, left = 0, total_mb * MB
    while left > 0:
        sizes = [LARGE_BYTES] * 3 if source.random() < 0.8 else [source.randrange(1, 2 * MB) for _ in range(20)]
        batch = []
        for size in sizes:
            batch.append(RawBSONDocument(bson.encode({"_id": key, "blob": source.randbytes(size)})))
            key += 1
        yield batch
        left -= sum(sizes)


def write(collection, seed, total_mb):
    """Inserts; the digest of each document by its place."""
    digests = []
    for batch in documents(seed, total_mb):
        collection.insert_many(batch, ordered=True)
        digests += [hashlib.sha256(document.raw).digest() for document in batch]
    return digests


def read(collection):
    return [hashlib.sha256(document.raw).digest() for document in collection.find().sort("_id", 1)]


def insert_first(client, name, batch):
    """One insert whose documents come before its body: legal, and no driver's way. It cannot be judged before its end."""
    documents_section = b"documents\0" + b"".join(document.raw for document in batch)
    body = bson.encode({"insert": name, "$db": client.get_default_database().name})
    sections = b"\x01" + struct.pack("<i", 4 + len(documents_section)) + documents_section + b"\0" + body
    request = 7
    message = struct.pack("<iiiiI", 20 + len(sections), request, 0, 2013, 0) + sections
    with client._conn_for_writes(None, "insert") as connection:
        connection.send_message(message, 0)
        reply = connection.receive_message(request).unpack_response()[0]
    if reply.get("n") != len(batch):
        raise RuntimeError(f"not inserted: {reply}")


def raw(client, name):
    options = bson.CodecOptions(document_class=RawBSONDocument)
    return client.get_default_database().get_collection(name, codec_options=options)


def measured(memory, what, busy, work):
    """Does the work; whether memory stayed within its bound for `busy` clients."""
    began = time.monotonic()
    with memory.watch() as watch:
        outcome = work()
    growth = watch.growth_mb
    within = growth < GROWTH_MAX_MB * busy
    print(
        f"{what}: {time.monotonic() - began:.0f} s, resident memory {watch.before_mb:.0f} MB + {growth:.1f} MB"
        f" (bound {GROWTH_MAX_MB * busy}){'' if within else '  TOO MUCH'}",
        flush=True,
    )
    return within, outcome


def together(works):
    outcomes = [None] * len(works)

    def run(index):
        outcomes[index] = works[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def main():
    through = pymongo.MongoClient(os.environ["POLYPOOL_URL_MONGODB"])
    direct = pymongo.MongoClient(os.environ["POLYPOOL_TEST_MONGODB_URL"])
    memory = Memory(gateway_pid(os.environ["POLYPOOL_URL_MONGODB"]))
    raw(direct, "proof_bulk").drop()
    raw(through, "proof_bulk").find_one()
    holds = []

    within, written = measured(memory, f"write {TOTAL_MB} MB", 1, lambda: write(raw(through, "proof_bulk"), 1, TOTAL_MB))
    holds.append(within)
    within, seen = measured(memory, f"read {TOTAL_MB} MB", 1, lambda: read(raw(through, "proof_bulk")))
    holds.append(within)
    stored = read(raw(direct, "proof_bulk"))
    holds.append(bool(written) and written == seen == stored)
    print(f"{len(written)} documents: written and read through polypool, and stored, {'equal' if holds[-1] else 'DIFFER'}")

    name = "proof_bulk_documents_first"
    raw(direct, name).drop()
    batch = next(documents(1, 48))
    within, _ = measured(memory, "one message of 48 MB with its documents first", 1, lambda: insert_first(through, name, batch))
    equal = read(raw(direct, name)) == [hashlib.sha256(document.raw).digest() for document in batch]
    holds += [within, equal]
    print(f"it is stored as sent: {equal}")
    raw(direct, name).drop()

    share = max(48, TOTAL_MB // 8)
    names = [f"proof_bulk_{number}" for number in range(CLIENTS_AT_ONCE)]
    clients = [pymongo.MongoClient(os.environ["POLYPOOL_URL_MONGODB"]) for _ in names]
    for name in names:
        raw(direct, name).drop()

    def there_and_back(client, name, seed):
        return write(raw(client, name), seed, share) == read(raw(client, name))

    within, equal = measured(
        memory,
        f"{CLIENTS_AT_ONCE} clients at once, {share} MB each, there and back",
        CLIENTS_AT_ONCE,
        lambda: together([
            lambda client=client, name=name, seed=seed: there_and_back(client, name, seed)
            for seed, (client, name) in enumerate(zip(clients, names))
        ]),
    )  # fmt: skip
    holds += [within, equal == [True] * CLIENTS_AT_ONCE]
    print(f"each found what it had written: {equal}")
    for name in ["proof_bulk", *names]:
        raw(direct, name).drop()
    print("HOLDS" if all(holds) else "DOES NOT HOLD")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
