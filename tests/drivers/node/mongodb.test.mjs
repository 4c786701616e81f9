// The Node MongoDB driver, unchanged: CRUD, cursors, aggregation, bulk, sessions, GridFS, many clients.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Binary, Decimal128, GridFSBucket, Long, MongoClient, ObjectId, Timestamp } from "mongodb";

import { MONGODB_DATABASE, MONGODB_IS_SET, MONGODB_URL, freshName, range } from "./shared.mjs";

const CLIENTS = 50;
const options = { serverSelectionTimeoutMS: 60000 };
const client = new MongoClient(MONGODB_URL, options);
const db = client.db(MONGODB_DATABASE);

before(() => client.connect());
after(() => client.close());

const withCollection = async (use) => {
  const coll = db.collection(freshName());
  try {
    await use(coll);
  } finally {
    await coll.drop();
  }
};
const collectionTest = (name, use) => test(name, () => withCollection(use));
const rejectsWith = (code, promise) => assert.rejects(promise, (error) => (assert.equal(error.code, code), true));

test("connects and reports its server", async () => {
  assert.equal((await db.command({ ping: 1 })).ok, 1);
  assert.match((await db.admin().serverInfo()).version, /^6\.0\./);
});

collectionTest("create, read, update, delete", async (coll) => {
  const { insertedId } = await coll.insertOne({ v: 1 });
  assert.deepEqual(await coll.findOne({ _id: insertedId }), { _id: insertedId, v: 1 });
  assert.equal((await coll.updateOne({ v: 1 }, { $inc: { v: 1 } })).modifiedCount, 1);
  assert.ok((await coll.updateOne({ v: 99 }, { $set: { w: 1 } }, { upsert: true })).upsertedId);
  assert.equal((await coll.findOneAndUpdate({ v: 2 }, { $set: { v: 3 } }, { returnDocument: "after" })).v, 3);
  assert.equal((await coll.deleteMany({})).deletedCount, 2);
  assert.equal(await coll.findOne({}), null);
});

collectionTest("every type comes back", async (coll) => {
  const document = {
    _id: new ObjectId(),
    double: 1.5e-300,
    string: "naïve – 文字 😀\0",
    array: [1, null, [true, { deep: {} }]],
    binary: new Binary(Buffer.from(range(256))),
    date: new Date("2024-02-29T12:00:00.001Z"),
    regex: /^a.*/im,
    int64: Long.fromString("-9223372036854775808"),
    timestamp: new Timestamp({ t: 1, i: 2 }),
    decimal: Decimal128.fromString("-1E-101"),
  };
  await coll.insertOne(document);
  assert.deepEqual(await coll.findOne({ _id: document._id }), document);
});

collectionTest("find fetches in batches", async (coll) => {
  await coll.insertMany(range(1000).map((n) => ({ _id: n })));
  const ids = [];
  for await (const { _id } of coll.find({}, { batchSize: 50 }).sort({ _id: 1 })) ids.push(_id);
  assert.deepEqual(ids, range(1000));
});

collectionTest("cursors interleave, and close early", async (coll) => {
  await coll.insertMany(range(100).map((n) => ({ _id: n })));
  const cursors = range(20).map(() => coll.find({}, { batchSize: 10 }).sort({ _id: 1 }));
  for (const n of range(50)) {
    assert.deepEqual((await Promise.all(cursors.map((c) => c.next()))).map((d) => d._id), Array(20).fill(n));
  }
  await Promise.all(cursors.map((c) => c.close()));
});

collectionTest("aggregate, distinct and count", async (coll) => {
  await coll.insertMany(range(300).map((n) => ({ kind: n % 3, v: n })));
  assert.deepEqual(
    await coll.aggregate([{ $group: { _id: "$kind", sum: { $sum: "$v" } } }, { $sort: { _id: 1 } }]).toArray(),
    [{ _id: 0, sum: 14850 }, { _id: 1, sum: 14950 }, { _id: 2, sum: 15050 }],
  );
  assert.deepEqual(await coll.distinct("kind"), [0, 1, 2]);
  assert.equal(await coll.countDocuments({ kind: 1 }), 100);
  assert.equal(await coll.estimatedDocumentCount(), 300);
});

collectionTest("indexes and duplicate keys", async (coll) => {
  assert.equal(await coll.createIndex({ a: 1 }, { unique: true }), "a_1");
  await coll.insertOne({ a: 1 });
  await rejectsWith(11000, coll.insertOne({ a: 1 }));
  assert.deepEqual((await coll.indexes()).map((i) => i.name), ["_id_", "a_1"]);
});

collectionTest("bulk writes and their errors", async (coll) => {
  const result = await coll.bulkWrite([
    { insertOne: { document: { _id: 1 } } },
    { insertOne: { document: { _id: 2 } } },
    { updateOne: { filter: { _id: 1 }, update: { $set: { v: 1 } } } },
    { deleteOne: { filter: { _id: 2 } } },
  ]);
  assert.deepEqual([result.insertedCount, result.modifiedCount, result.deletedCount], [2, 1, 1]);
  await assert.rejects(coll.insertMany([{ _id: 10 }, { _id: 1 }, { _id: 11 }], { ordered: false }), { code: 11000, insertedCount: 2 });
});

collectionTest("unacknowledged writes arrive", async (coll) => {
  const quiet = await coll.insertOne({ _id: 1 }, { writeConcern: { w: 0 } });
  assert.equal(quiet.acknowledged, false);
  while ((await coll.countDocuments({})) < 1) await new Promise(setImmediate);
});

collectionTest("errors carry their codes", async (coll) => {
  await rejectsWith(59, db.command({ noSuchCommandAnywhere: 1 }));
  await rejectsWith(2, coll.findOne({ $badOperator: 1 }));
  await coll.insertOne({ s: "text" });
  await rejectsWith(14, coll.updateOne({ s: "text" }, { $inc: { s: 1 } }));
  await rejectsWith(50, coll.findOne({ $where: "sleep(10000) || true" }, { maxTimeMS: 50 }));
});

collectionTest("an explicit session; transactions and change streams as the server has them", async (coll) => {
  await client.withSession(async (session) => {
    await coll.insertOne({ _id: 1 }, { session });
    assert.deepEqual(await coll.find({}, { session }).toArray(), [{ _id: 1 }]);
    session.startTransaction();
    if (MONGODB_IS_SET) await coll.insertOne({ _id: 2 }, { session });
    else await rejectsWith(20, coll.insertOne({ _id: 2 }, { session }));
    assert.equal(await coll.findOne({ _id: 2 }), null);
    await session.abortTransaction();
    if (MONGODB_IS_SET) await session.withTransaction(() => coll.insertOne({ _id: 4 }, { session }));
  });
  assert.deepEqual(await coll.find().toArray(), MONGODB_IS_SET ? [{ _id: 1 }, { _id: 4 }] : [{ _id: 1 }]);
  const changes = coll.watch();
  if (MONGODB_IS_SET) {
    const first = changes.next();
    // The stream begins with its first answer, so what it shall see is written until it sees one.
    const seen = first.then((change) => change.operationType);
    let isSeen = false;
    const end = () => (isSeen = true);
    seen.then(end, end);
    for (let n = 10; !isSeen; n++) await coll.insertOne({ _id: n });
    assert.equal(await seen, "insert");
    await changes.close();
  } else {
    await rejectsWith(40573, changes.next());
  }
  await coll.insertOne({ _id: 3 });
});

test("GridFS", async () => {
  const bucketName = freshName();
  const bucket = new GridFSBucket(db, { bucketName, chunkSizeBytes: 1024 });
  const content = Buffer.from(range(10240).map((n) => n % 256));
  try {
    const upload = bucket.openUploadStream("file");
    await new Promise((resolve, reject) => upload.on("error", reject).end(content, resolve));
    const chunks = [];
    for await (const chunk of bucket.openDownloadStream(upload.id)) chunks.push(chunk);
    assert.ok(Buffer.concat(chunks).equals(content));
  } finally {
    await bucket.drop();
  }
});

collectionTest("large documents", async (coll) => {
  const blob = Buffer.alloc(1024 * 1024, "0123456789");
  await coll.insertMany(range(12).map((n) => ({ _id: n, blob })));
  for await (const document of coll.find()) assert.ok(Buffer.from(document.blob.buffer).equals(blob));
});

collectionTest("compression", async (coll) => {
  const compressed = new MongoClient(MONGODB_URL, { ...options, compressors: ["zlib"] });
  try {
    const own = compressed.db(MONGODB_DATABASE).collection(coll.collectionName);
    await own.insertMany(range(300).map((n) => ({ _id: n, text: "compressible ".repeat(50) })));
    assert.equal((await own.find().toArray()).length, 300);
  } finally {
    await compressed.close();
  }
});

collectionTest("fifty clients at once", async (coll) => {
  await coll.insertOne({ _id: "first" });
  await Promise.all(
    range(CLIENTS).map(async (n) => {
      const own = new MongoClient(MONGODB_URL, { ...options, maxPoolSize: 2 });
      try {
        const mine = own.db(MONGODB_DATABASE).collection(coll.collectionName);
        await mine.insertMany(range(20).map((step) => ({ _id: `${n}.${step}`, n })));
        assert.equal((await mine.find({ n }, { batchSize: 3 }).toArray()).length, 20);
      } finally {
        await own.close();
      }
    }),
  );
  assert.equal(await coll.countDocuments({}), CLIENTS * 20 + 1);
});

test("a wrong password is refused with code 18", () => {
  const wrong = new MongoClient(MONGODB_URL, { ...options, auth: { username: "nobody", password: "not-the-password" } });
  return rejectsWith(18, wrong.connect()).finally(() => wrong.close());
});
