// ioredis, unchanged: its pipelines and automatic pipelining, MULTI, blocking, pub/sub, scripts, many clients.
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test } from "node:test";

import Redis from "ioredis";

import { REDIS_URL, freshName, range } from "./shared.mjs";

const CLIENTS = 100;
const prefix = freshName();
const opened = new Set();

const connect = (options = {}) => {
  const client = new Redis(REDIS_URL, { connectTimeout: 60000, maxRetriesPerRequest: 1, ...options });
  opened.add(client);
  return client;
};
const r = connect();

after(async () => {
  const keys = [];
  for await (const batch of r.scanStream({ match: `${prefix}*`, count: 1000 })) keys.push(...batch);
  if (keys.length) await r.del(keys);
  for (const client of opened) client.disconnect();
});

const key = (name) => `${prefix}:${name}`;
const blocked = async () => Number(/blocked_clients:(\d+)/.exec(await r.info("clients"))[1]);
const untilBlocked = async (n) => {
  while ((await blocked()) < n) await new Promise(setImmediate);
};

test("connects and answers", async () => {
  assert.equal(await r.ping(), "PONG");
  assert.match(await r.info("server"), /redis_version:/);
});

test("strings, with every byte", async () => {
  const bytes = Buffer.from(range(256));
  assert.equal(await r.set(key("s"), bytes), "OK");
  assert.deepEqual(await r.getBuffer(key("s")), bytes);
  assert.equal(await r.set(key("s"), "x", "NX"), null);
  assert.equal(await r.get(key("none")), null);
  assert.equal(await r.incrby(key("n"), 42), 42);
  assert.deepEqual(await r.mget(key("n"), key("none")), ["42", null]);
});

test("hashes, lists, sets, sorted sets and streams", async () => {
  await r.hset(key("h"), { a: 1, "ü": "ß" });
  assert.deepEqual(await r.hgetall(key("h")), { a: "1", "ü": "ß" });
  await r.rpush(key("l"), ...range(5));
  assert.deepEqual(await r.lrange(key("l"), 1, -2), ["1", "2", "3"]);
  await r.sadd(key("set"), "a", "b");
  assert.deepEqual((await r.smembers(key("set"))).sort(), ["a", "b"]);
  await r.zadd(key("z"), 1.5, "a", -3, "b");
  assert.deepEqual(await r.zrange(key("z"), 0, -1, "WITHSCORES"), ["b", "-3", "a", "1.5"]);
  const id = await r.xadd(key("x"), "*", "f", "v");
  assert.deepEqual(await r.xrange(key("x"), "-", "+"), [[id, ["f", "v"]]]);
});

test("a pipeline of a thousand keeps order and places its errors", async () => {
  const pipe = r.pipeline();
  for (const n of range(500)) pipe.set(key(`p${n}`), n).get(key(`p${n}`));
  pipe.lpush(key("p0"), "wrong").get(key("p0"));
  const replies = await pipe.exec();
  range(500).forEach((n) => assert.deepEqual(replies.slice(2 * n, 2 * n + 2), [[null, "OK"], [null, String(n)]]));
  assert.match(replies[1000][0].message, /^WRONGTYPE/);
  assert.deepEqual(replies[1001], [null, "0"]);
});

test("automatic pipelining", async () => {
  const auto = connect({ enableAutoPipelining: true });
  await Promise.all(range(300).map((n) => auto.set(key(`auto${n}`), n)));
  assert.deepEqual(await Promise.all(range(300).map((n) => auto.get(key(`auto${n}`)))), range(300).map(String));
});

test("MULTI in a pipeline and step by step", async () => {
  assert.deepEqual(await r.multi().set(key("m"), 1).incr(key("m")).exec(), [[null, "OK"], [null, 2]]);
  const own = connect();
  await own.multi({ pipeline: false });
  assert.equal(await own.incr(key("m")), "QUEUED");
  assert.equal(await r.get(key("m")), "2");
  assert.deepEqual(await own.exec(), [[null, 3]]);
});

test("WATCH notices a conflict", async () => {
  const own = connect();
  await r.set(key("w"), 1);
  await own.watch(key("w"));
  await r.set(key("w"), 2);
  assert.equal(await own.multi().set(key("w"), 3).exec(), null);
  await own.watch(key("w"));
  assert.deepEqual(await own.multi().set(key("w"), 3).exec(), [[null, "OK"]]);
});

test("a blocking pop is served by another client, or times out", async () => {
  const popper = connect();
  const before = await blocked();
  const popped = popper.blpop(key("bl"), 20);
  await untilBlocked(before + 1);
  await r.rpush(key("bl"), "served");
  assert.deepEqual(await popped, [key("bl"), "served"]);
  assert.equal(await popper.blpop(key("bl"), 0.1), null);
  assert.equal(await popper.ping(), "PONG");
});

test("publish, subscribe, pattern and unsubscribe", async () => {
  const subscriber = connect();
  assert.equal(await subscriber.subscribe(key("c1"), key("c2")), 2);
  assert.equal(await subscriber.psubscribe(key("p*")), 3);
  const message = once(subscriber, "message");
  const pattern = once(subscriber, "pmessage");
  assert.equal(await r.publish(key("c1"), "one"), 1);
  assert.equal(await r.publish(key("pat"), "two"), 1);
  assert.deepEqual(await message, [key("c1"), "one"]);
  assert.deepEqual(await pattern, [key("p*"), key("pat"), "two"]);
  await subscriber.unsubscribe(key("c1"), key("c2"));
  await subscriber.punsubscribe(key("p*"));
  assert.equal(await r.publish(key("c1"), "nobody"), 0);
  assert.equal(await subscriber.get(key("none")), null);
});

test("scripts fall back from EVALSHA to EVAL", async () => {
  const own = connect();
  own.defineCommand("twice", { numberOfKeys: 1, lua: `--${prefix}\nreturn {KEYS[1], ARGV[1] * 2}` });
  assert.deepEqual(await own.twice(key("k"), 21), [key("k"), 42]);
  assert.deepEqual(await own.twice(key("k"), 4), [key("k"), 8]);
});

test("numbered databases stay apart", async () => {
  const [zero, three] = [connect(), connect()];
  await three.select(3);
  await Promise.all([zero.set(key("db"), "zero"), three.set(key("db"), "three")]);
  assert.deepEqual(await Promise.all([zero.get(key("db")), three.get(key("db"))]), ["zero", "three"]);
  await three.del(key("db"));
});

test("SCAN finds every key", async () => {
  await r.mset(Object.fromEntries(range(1000).map((n) => [key(`scan:${n}`), ""])));
  const found = new Set();
  for await (const batch of r.scanStream({ match: key("scan:*"), count: 100 })) batch.forEach((k) => found.add(k));
  assert.equal(found.size, 1000);
});

test("large values", async () => {
  const value = Buffer.alloc(1024 * 1024, "0123456789");
  const pipe = r.pipeline();
  for (const n of range(12)) pipe.set(key(`big${n}`), value).getBuffer(key(`big${n}`));
  (await pipe.exec()).forEach(([error, reply], n) => assert.ok(!error && (n % 2 === 0 || reply.equals(value))));
});

test("a hundred clients keep names and order", async () => {
  await Promise.all(
    range(CLIENTS).map(async (n) => {
      const own = connect({ connectionName: `n${n}` });
      for (const step of range(10)) {
        const [[, set], [, got], [, name]] = await own.pipeline().set(key(`c${n}`), step).get(key(`c${n}`)).client("GETNAME").exec();
        assert.deepEqual([set, got, name], ["OK", String(step), `n${n}`]);
      }
      await own.quit();
      opened.delete(own);
    }),
  );
});

test("a wrong password is refused with WRONGPASS", async () => {
  const url = new URL(REDIS_URL);
  url.username ||= "default";
  url.password = "not-the-password";
  const own = new Redis(url.href, { lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 });
  const failed = once(own, "error");
  await assert.rejects(own.connect().then(() => own.get(key("none"))));
  assert.match(String((await failed)[0].message), /WRONGPASS/);
  own.disconnect();
});
