// What people do in the shell; a line `verdict<TAB>name` for each.
const check = (name, use) => {
  try {
    use();
    print(`pass\t${name}`);
  } catch (error) {
    print(`fail\t${name}`);
    print(`${name}: ${error}`);
  }
};
const equal = (found, wanted) => {
  if (EJSON.stringify(found) !== EJSON.stringify(wanted)) throw new Error(`${EJSON.stringify(found)} is not ${EJSON.stringify(wanted)}`);
};
const refused = (code, use) => {
  try {
    use();
  } catch (error) {
    return equal(error.code, code);
  }
  throw new Error("not refused");
};
const own = db.getSiblingDB("mongosh_suite");
own.dropDatabase();

check("insert and find", () => {
  equal(own.things.insertOne({ _id: 1, a: 1 }).acknowledged, true);
  equal(own.things.insertMany([{ _id: 2, a: 2 }, { _id: 3, a: 3 }]).insertedIds, { 0: 2, 1: 3 });
  equal(own.things.find({ a: { $gt: 1 } }).sort({ _id: 1 }).toArray(), [{ _id: 2, a: 2 }, { _id: 3, a: 3 }]);
});
check("update, replace, delete", () => {
  equal(own.things.updateOne({ _id: 1 }, { $inc: { a: 10 } }).modifiedCount, 1);
  equal(own.things.replaceOne({ _id: 2 }, { b: 2 }).modifiedCount, 1);
  equal(own.things.findOneAndUpdate({ _id: 3 }, { $set: { a: 4 } }, { returnDocument: "after" }), { _id: 3, a: 4 });
  equal(own.things.deleteOne({ _id: 2 }).deletedCount, 1);
  equal(own.things.countDocuments(), 2);
});
check("a duplicate key is told with its code", () => refused(11000, () => own.things.insertOne({ _id: 1 })));
check("an unknown command is told with its code", () => refused(59, () => own.runCommand({ noSuchCommand: 1 })));
check("aggregate", () => {
  equal(own.things.aggregate([{ $group: { _id: null, sum: { $sum: "$a" } } }]).toArray(), [{ _id: null, sum: 15 }]);
});
check("aggregate with $out", () => {
  own.things.aggregate([{ $out: "copied" }]).toArray();
  equal(own.copied.countDocuments(), 2);
});
check("batches by getMore", () => {
  own.many.insertMany(Array.from({ length: 1000 }, (_, number) => ({ _id: number, text: "x".repeat(500) })));
  const seen = own.many.find().sort({ _id: 1 }).batchSize(7).toArray();
  equal(seen.length, 1000);
  equal(seen[999]._id, 999);
});
check("transaction, committed and aborted", () => {
  const session = db.getMongo().startSession();
  const things = session.getDatabase("mongosh_suite").things;
  session.startTransaction();
  things.insertOne({ _id: "kept" });
  equal(own.things.countDocuments({ _id: "kept" }), 0);
  session.commitTransaction();
  session.startTransaction();
  things.insertOne({ _id: "lost" });
  session.abortTransaction();
  session.endSession();
  equal(own.things.countDocuments({ _id: { $in: ["kept", "lost"] } }), 1);
});
check("change stream", () => {
  const stream = own.watched.watch();
  own.watched.insertOne({ _id: 1 });
  let event = null;
  for (let turn = 0; turn < 100 && event === null; turn += 1) event = stream.tryNext();
  stream.close();
  equal(event.fullDocument, { _id: 1 });
});
check("indexes", () => {
  equal(own.things.createIndex({ a: 1 }), "a_1");
  equal(own.things.getIndexes().map((index) => index.name), ["_id_", "a_1"]);
  own.things.dropIndex("a_1");
});
check("explain", () => equal(typeof own.things.find({ a: 1 }).explain().queryPlanner, "object"));
check("show dbs", () => {
  equal(db.getMongo().getDBs().databases.some((found) => found.name === "mongosh_suite"), true);
  equal(db.getMongo().getDBNames().includes("mongosh_suite"), true);
});
check("show collections", () => {
  equal(own.getCollectionNames().sort(), ["copied", "many", "things", "watched"]);
});
check("db.stats(), collection.stats()", () => {
  equal(own.stats().ok, 1);
  equal(own.many.stats().count, 1000);
});
check("db.version(), db.hello(), ping", () => {
  equal(db.version(), "6.0.5");
  equal(db.hello().isWritablePrimary, true);
  equal(db.adminCommand({ ping: 1 }).ok, 1);
});
check("connection status", () => equal(db.runCommand({ connectionStatus: 1 }).authInfo.authenticatedUsers.length, 1));
check("bulk", () => {
  const bulk = own.bulk.initializeOrderedBulkOp();
  bulk.insert({ _id: 1 });
  bulk.find({ _id: 1 }).updateOne({ $set: { a: 1 } });
  bulk.find({ _id: 1 }).deleteOne();
  const done = bulk.execute();
  equal([done.insertedCount, done.matchedCount, done.deletedCount], [1, 1, 1]);
});
check("drop", () => {
  equal(own.many.drop(), true);
  equal(own.dropDatabase().ok, 1);
});
