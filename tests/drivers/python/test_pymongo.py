"""pymongo, unchanged: CRUD, cursors, aggregation, indexes, bulk, w:0, sessions, transactions as far as the server has them, GridFS, threads."""

import datetime
import decimal
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import gridfs
import pymongo
import pytest
from bson import Binary, Code, DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import errors

from conftest import MONGODB_DATABASE, MONGODB_IS_SET, eventually

CLIENTS = 50


@pytest.fixture(scope="module")
def client(urls):
    with pymongo.MongoClient(urls.mongodb, serverSelectionTimeoutMS=20000) as client:
        yield client


@pytest.fixture
def db(client):
    return client[MONGODB_DATABASE]


@pytest.fixture
def coll(db, name):
    yield db[name]
    db.drop_collection(name)


def test_connects_and_reports_its_server(client):
    assert client.admin.command("ping")["ok"] == 1.0
    assert client.server_info()["versionArray"][:2] == [6, 0]
    assert client.admin.command("hello")["isWritablePrimary"] is True
    status = client.admin.command("connectionStatus")
    assert len(status["authInfo"]["authenticatedUsers"]) == 1


def test_create_read_update_delete(coll):
    inserted = coll.insert_one({"v": 1})
    assert isinstance(inserted.inserted_id, ObjectId) and inserted.acknowledged
    assert coll.find_one({"_id": inserted.inserted_id}) == {"_id": inserted.inserted_id, "v": 1}
    assert coll.update_one({"v": 1}, {"$inc": {"v": 1}}).modified_count == 1
    assert coll.update_one({"v": 99}, {"$set": {"w": 1}}, upsert=True).upserted_id is not None
    assert coll.replace_one({"v": 2}, {"v": 3}).matched_count == 1
    assert coll.find_one_and_update({"v": 3}, {"$set": {"v": 4}}, return_document=True)["v"] == 4
    assert coll.delete_many({}).deleted_count == 2
    assert coll.find_one() is None


def test_every_type_round_trips(coll):
    document = {
        "_id": ObjectId(),
        "double": 1.5e-300,
        "string": "naïve – 文字 😀\x00",
        "array": [1, None, [True, {"deep": {}}]],
        "binary": bytes(range(256)),
        "user": Binary(b"x", 128),
        "uuid": Binary.from_uuid(uuid.UUID(int=7), UuidRepresentation.STANDARD),
        "date": datetime.datetime(2024, 2, 29, 12, 0, 0, 1000),
        "far": DatetimeMS(2**62),
        "regex": Regex("^a.*", "im"),
        "code": Code("function() {}", {"x": 1}),
        "int32": 2**31 - 1,
        "int64": Int64(-(2**63)),
        "timestamp": Timestamp(1, 2),
        "decimal": Decimal128(decimal.Decimal("-0.1E-100")),
        "min": MinKey(),
        "max": MaxKey(),
        "null": None,
    }
    options = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO, uuid_representation=UuidRepresentation.UNSPECIFIED)
    coll.insert_one(document)
    assert coll.with_options(options).find_one({"_id": document["_id"]}) == document


def test_find_fetches_in_batches(coll):
    coll.insert_many([{"_id": n} for n in range(1000)])
    cursor = coll.find().sort("_id").batch_size(50)
    assert [d["_id"] for d in cursor] == list(range(1000))
    assert not cursor.alive
    assert [d["_id"] for d in coll.find().sort("_id", -1).skip(10).limit(5)] == [989, 988, 987, 986, 985]


def test_cursors_of_many_clients_interleave(coll, urls):
    coll.insert_many([{"_id": n} for n in range(200)])
    clients = [pymongo.MongoClient(urls.mongodb) for _ in range(15)]
    try:
        cursors = [c[MONGODB_DATABASE][coll.name].find().sort("_id").batch_size(10) for c in clients]
        for n in range(200):
            assert [next(cursor)["_id"] for cursor in cursors] == [n] * 15
    finally:
        for c in clients:
            c.close()


def test_closing_a_cursor_kills_it(coll):
    coll.insert_many([{"_id": n} for n in range(100)])
    cursor = coll.find(batch_size=10)
    next(cursor)
    cursor_id = cursor.cursor_id
    assert cursor_id
    cursor.close()
    with pytest.raises(errors.OperationFailure) as caught:
        coll.database.command("getMore", Int64(cursor_id), collection=coll.name)
    assert caught.value.code == 43


def test_aggregate(coll):
    coll.insert_many([{"kind": n % 3, "v": n} for n in range(300)])
    pipeline = [{"$match": {"v": {"$gte": 30}}}, {"$group": {"_id": "$kind", "sum": {"$sum": "$v"}}}, {"$sort": {"_id": 1}}]
    assert list(coll.aggregate(pipeline)) == [{"_id": 0, "sum": 14715}, {"_id": 1, "sum": 14805}, {"_id": 2, "sum": 14895}]
    assert len(list(coll.aggregate([{"$sort": {"v": 1}}], batchSize=20))) == 300


def test_aggregate_out_writes_a_collection(coll, db):
    coll.insert_many([{"_id": n} for n in range(5)])
    try:
        coll.aggregate([{"$match": {"_id": {"$lt": 3}}}, {"$out": f"{coll.name}_out"}])
        assert db[f"{coll.name}_out"].count_documents({}) == 3
    finally:
        db.drop_collection(f"{coll.name}_out")


def test_indexes_and_duplicate_key(coll):
    assert coll.create_index([("a", 1), ("b", -1)], unique=True) == "a_1_b_-1"
    assert set(coll.index_information()) == {"_id_", "a_1_b_-1"}
    coll.insert_one({"a": 1, "b": 1})
    with pytest.raises(errors.DuplicateKeyError) as caught:
        coll.insert_one({"a": 1, "b": 1})
    assert caught.value.code == 11000
    assert caught.value.details["keyValue"] == {"a": 1, "b": 1}
    coll.drop_index("a_1_b_-1")
    assert set(coll.index_information()) == {"_id_"}


def test_bulk_write_and_its_errors(coll):
    result = coll.bulk_write(
        [
            pymongo.InsertOne({"_id": 1}),
            pymongo.InsertOne({"_id": 2}),
            pymongo.UpdateOne({"_id": 1}, {"$set": {"v": 1}}),
            pymongo.UpdateOne({"_id": 3}, {"$set": {"v": 3}}, upsert=True),
            pymongo.DeleteOne({"_id": 2}),
        ]
    )
    assert (result.inserted_count, result.modified_count, result.upserted_count, result.deleted_count) == (2, 1, 1, 1)
    with pytest.raises(errors.BulkWriteError) as caught:
        coll.insert_many([{"_id": 10}, {"_id": 1}, {"_id": 11}], ordered=False)
    assert caught.value.details["nInserted"] == 2
    assert [e["code"] for e in caught.value.details["writeErrors"]] == [11000]


def test_large_bulk_is_split_by_the_driver(coll):
    coll.insert_many([{"_id": n, "x": "y" * 100} for n in range(20000)])
    assert coll.estimated_document_count() == 20000
    assert coll.count_documents({"_id": {"$gte": 19990}}) == 10


def test_unacknowledged_writes_arrive(coll):
    quiet = coll.with_options(write_concern=pymongo.WriteConcern(w=0))
    for n in range(20):
        assert quiet.insert_one({"_id": n}).acknowledged is False
        coll.database.command("ping")
    eventually(lambda: coll.count_documents({}) == 20)
    quiet.insert_one({"_id": 0})  # a duplicate, of which nobody may hear
    assert coll.find_one({"_id": 19}) == {"_id": 19}


def test_commands_that_fail_carry_their_code(coll, db):
    with pytest.raises(errors.OperationFailure) as caught:
        db.command("noSuchCommandAnywhere")
    assert caught.value.code == 59
    with pytest.raises(errors.OperationFailure) as caught:
        coll.find_one({"$badOperator": 1})
    assert caught.value.code == 2
    coll.insert_one({"_id": 1, "s": "text"})
    with pytest.raises(errors.WriteError) as caught:
        coll.update_one({"_id": 1}, {"$inc": {"s": 1}})
    assert caught.value.code == 14


def test_explicit_session(client, coll):
    with client.start_session(causal_consistency=True) as session:
        coll.insert_many([{"_id": n} for n in range(100)], session=session)
        assert [d["_id"] for d in coll.find(session=session, batch_size=7).sort("_id")] == list(range(100))
        assert session.session_id is not None
    assert session.has_ended


def test_transactions_and_change_streams_are_as_the_server_has_them(client, coll):
    (a_set_has_them if MONGODB_IS_SET else a_standalone_refuses_them)(client, coll)


def a_set_has_them(client, coll):
    with client.start_session() as session:
        session.start_transaction()
        coll.insert_one({"_id": 1}, session=session)
        assert coll.find_one({"_id": 1}) is None and coll.find_one({"_id": 1}, session=session)
        session.abort_transaction()
        with session.start_transaction():
            coll.insert_one({"_id": 2}, session=session)
    assert [d["_id"] for d in coll.find()] == [2]
    with coll.watch(max_await_time_ms=500) as changes:
        coll.insert_one({"_id": 3})
        assert next(changes)["documentKey"] == {"_id": 3}


def a_standalone_refuses_them(client, coll):
    # Its own words must pass, and must not upset plain writes.
    with client.start_session() as session:
        session.start_transaction()
        with pytest.raises((errors.OperationFailure, errors.ConfigurationError)) as caught:
            coll.insert_one({"_id": 1}, session=session)
        assert caught.value.code == 20
        session.abort_transaction()
    with pytest.raises(errors.OperationFailure) as caught:
        coll.watch()
    assert caught.value.code == 40573
    coll.insert_one({"_id": 2})
    assert coll.find_one({"_id": 1}) is None and coll.find_one({"_id": 2})


@pytest.mark.parametrize("retry", [True, False])
def test_writes_work_whatever_retry_writes_says(urls, coll, retry):
    with pymongo.MongoClient(urls.mongodb, retryWrites=retry, retryReads=retry) as client:
        own = client[MONGODB_DATABASE][coll.name]
        own.insert_one({"_id": 1})
        own.insert_many([{"_id": 2}, {"_id": 3}])
        assert own.update_one({"_id": 1}, {"$set": {"v": 1}}).modified_count == 1
        assert own.find_one_and_delete({"_id": 2}) == {"_id": 2}
        assert own.count_documents({}) == 2


def test_distinct_count_and_collections(coll, db):
    coll.insert_many([{"v": n % 4} for n in range(40)])
    assert coll.distinct("v") == [0, 1, 2, 3]
    assert coll.count_documents({"v": 1}) == 10
    assert coll.name in db.list_collection_names()
    assert [c["name"] for c in db.list_collections(filter={"name": coll.name})] == [coll.name]
    assert db.command("collStats", coll.name)["count"] == 40


def test_gridfs(db, name):
    bucket = gridfs.GridFSBucket(db, bucket_name=name, chunk_size_bytes=1024)
    content = bytes(range(256)) * 40
    try:
        file_id = bucket.upload_from_stream("file", content)
        assert bucket.open_download_stream(file_id).read() == content
        bucket.delete(file_id)
        assert list(bucket.find()) == []
    finally:
        db.drop_collection(f"{name}.files")
        db.drop_collection(f"{name}.chunks")


def test_large_documents(coll):
    blob = bytes(range(256)) * 4096
    coll.insert_many([{"_id": n, "blob": blob} for n in range(12)])
    assert [d["blob"] == blob for d in coll.find()] == [True] * 12
    largest = b"x" * (16 * 1024 * 1024 - 100)
    coll.insert_one({"_id": "largest", "blob": largest})
    assert coll.find_one({"_id": "largest"})["blob"] == largest


def test_max_time_ends_an_operation(coll):
    coll.insert_one({})
    with pytest.raises(errors.ExecutionTimeout) as caught:
        coll.find_one({"$where": "sleep(10000) || true"}, max_time_ms=50)
    assert caught.value.code == 50


@pytest.mark.parametrize("compressor", ["snappy", "zlib", "zstd"])
def test_compression(urls, coll, compressor):
    pytest.importorskip({"snappy": "snappy", "zlib": "zlib", "zstd": "backports.zstd"}[compressor])
    with pymongo.MongoClient(urls.mongodb, compressors=compressor) as client:
        assert client.admin.command("hello", compression=[compressor])["compression"] == [compressor]
        own = client[MONGODB_DATABASE][coll.name]
        own.insert_many([{"_id": n, "text": "compressible " * 50} for n in range(300)])
        assert sum(len(d["text"]) for d in own.find(batch_size=100)) == 300 * 650


def test_concurrent_clients(urls, coll):
    barrier = threading.Barrier(CLIENTS)

    def work(n):
        with pymongo.MongoClient(urls.mongodb, maxPoolSize=2, serverSelectionTimeoutMS=60000) as client:
            own = client[MONGODB_DATABASE][coll.name]
            client.admin.command("ping")
            barrier.wait(timeout=120)
            own.insert_many([{"_id": f"{n}.{step}", "n": n} for step in range(20)])
            assert len(list(own.find({"n": n}, batch_size=3))) == 20
            return own.delete_many({"n": n}).deleted_count

    with ThreadPoolExecutor(CLIENTS) as threads:
        assert list(threads.map(work, range(CLIENTS))) == [20] * CLIENTS


def test_threads_share_one_client(client, coll):
    def work(n):
        coll.insert_one({"_id": n})
        return coll.find_one({"_id": n})["_id"]

    with ThreadPoolExecutor(30) as threads:
        assert list(threads.map(work, range(300))) == list(range(300))
