// node-redis, unchanged: its client-side cache, pool, pub/sub and transactions in RESP3.
import assert from "node:assert/strict";
import { after, test } from "node:test";

import { BasicClientSideCache, BasicPooledClientSideCache, createClient, createClientPool } from "@redis/client";

import { REDIS_URL, freshName, range } from "./shared.mjs";

const prefix = freshName();
const opened = new Set();

const connect = async (options = {}) => {
  const client = createClient({ url: REDIS_URL, RESP: 3, ...options });
  client.on("error", () => {});
  opened.add(client);
  return client.connect();
};
const r = await connect();

after(async () => {
  const keys = [];
  for await (const batch of r.scanIterator({ MATCH: `${prefix}*`, COUNT: 1000 })) keys.push(...batch);
  if (keys.length) await r.del(keys);
  for (const client of opened) client.destroy();
});

const key = (name) => `${prefix}:${name}`;

test("strings, hashes and maps in RESP3", async () => {
  assert.equal(await r.set(key("s"), "v"), "OK");
  assert.equal(await r.get(key("s")), "v");
  await r.hSet(key("h"), { a: "1", "ü": "ß" });
  assert.deepEqual({ ...(await r.hGetAll(key("h"))) }, { a: "1", "ü": "ß" });
  await r.zAdd(key("z"), { value: "a", score: 1.5 });
  assert.deepEqual(await r.zRangeWithScores(key("z"), 0, -1), [{ value: "a", score: 1.5 }]);
});

test("the client-side cache never serves what its own client has overwritten", async () => {
  const cache = new BasicClientSideCache();
  const own = await connect({ clientSideCache: cache });
  await own.set(key("own"), "0");
  for (const n of range(100)) {
    await own.get(key("own"));
    await own.set(key("own"), String(n + 1));
    assert.equal(await own.get(key("own")), String(n + 1));
  }
  assert.ok(cache.stats().hitCount > 0);
  own.destroy();
  opened.delete(own);
});

test("the client-side cache is told of what others write", async () => {
  const cache = new BasicClientSideCache();
  const own = await connect({ clientSideCache: cache });
  await r.set(key("others"), "before");
  assert.equal(await own.get(key("others")), "before");
  assert.equal(await own.get(key("others")), "before");
  assert.equal(cache.stats().hitCount, 1);
  const told = new Promise((resolve) => cache.once("invalidate", resolve));
  await r.set(key("others"), "after");
  assert.equal(String(await told), key("others"));
  assert.equal(await own.get(key("others")), "after");
  own.destroy();
  opened.delete(own);
});

test("a pool shares one cache", async () => {
  const cache = new BasicPooledClientSideCache();
  const pool = createClientPool({ url: REDIS_URL, RESP: 3 }, { minimum: 2, maximum: 2, clientSideCache: cache });
  pool.on("error", () => {});
  opened.add(pool);
  await pool.connect();
  await pool.set(key("pooled"), "1");
  assert.deepEqual(await Promise.all(range(20).map(() => pool.get(key("pooled")))), range(20).map(() => "1"));
  const told = new Promise((resolve) => cache.once("invalidate", resolve));
  await pool.set(key("pooled"), "2");
  await told;
  assert.equal(await pool.get(key("pooled")), "2");
  pool.destroy();
  opened.delete(pool);
});

test("messages beside commands on one connection", async () => {
  const own = await connect();
  const heard = [];
  await own.subscribe(key("c"), (message) => heard.push(message));
  await own.pSubscribe(key("p*"), (message) => heard.push(message));
  for (const n of range(10)) {
    assert.equal(await own.publish(key("c"), `c${n}`), 1);
    assert.equal(await own.publish(key("p"), `p${n}`), 1);
    assert.equal(await own.get(key("none")), null);
  }
  assert.deepEqual(heard, range(10).flatMap((n) => [`c${n}`, `p${n}`]));
  await own.unsubscribe();
  assert.equal(await own.publish(key("c"), "nobody"), 0);
});

test("transactions and WATCH", async () => {
  assert.deepEqual(await r.multi().set(key("m"), "1").incr(key("m")).exec(), ["OK", 2]);
  const own = await connect();
  await own.watch(key("m"));
  await r.set(key("m"), "3");
  await assert.rejects(own.multi().set(key("m"), "4").exec(), /watched keys/);
  assert.equal(await r.get(key("m")), "3");
});
