// node-postgres, unchanged: simple and extended protocol, named queries, transactions, errors, cursors, COPY, its pool.
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";

import pg from "pg";
import copy from "pg-copy-streams";
import Cursor from "pg-cursor";
import QueryStream from "pg-query-stream";

import { POSTGRES_URL, freshName, range } from "./shared.mjs";

const CLIENTS = 50;
const options = { connectionString: POSTGRES_URL, connectionTimeoutMillis: 60000 };
const table = freshName();

const withClient = async (use, more = {}) => {
  const client = new pg.Client({ ...options, ...more });
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
};

before(() => withClient((c) => c.query(`CREATE TABLE ${table} (id integer PRIMARY KEY, v text)`)));
after(() => withClient((c) => c.query(`DROP TABLE ${table}`)));

const rejectsWith = (code, promise) => assert.rejects(promise, (error) => (assert.equal(error.code, code), true));

test("connects and runs simple queries", () =>
  withClient(async (c) => {
    assert.deepEqual((await c.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
    const results = await c.query("SELECT 1 AS a; SELECT 'two' AS b, 2 AS c");
    assert.deepEqual(results.map((r) => r.rows), [[{ a: 1 }], [{ b: "two", c: 2 }]]);
    assert.equal((await c.query("")).rows.length, 0);
  }));

test("parameters of every common type come back", () =>
  withClient(async (c) => {
    const values = [
      ["integer", 2147483647],
      ["bigint", "9223372036854775807"],
      ["numeric", "-12345678901234567890.000000001"],
      ["float8", 1.5e-300],
      ["boolean", true],
      ["text", "naïve – 文字 😀 '\"\\"],
      ["bytea", Buffer.from(range(256))],
      ["timestamptz", new Date("2024-02-29T12:00:00.001Z")],
      ["uuid", "00112233-4455-6677-8899-aabbccddeeff"],
      ["jsonb", { a: [1, null, { b: "ü" }] }],
      ["integer[]", [1, null, 3]],
      ["text[]", ["a,b", '"', "", null]],
      ["text", null],
    ];
    for (const [kind, value] of values) {
      const { rows } = await c.query(`SELECT $1::${kind} AS v`, [value]);
      assert.deepEqual(rows[0].v, value, kind);
    }
  }));

test("a transaction commits, and rolls back", () =>
  withClient((writer) =>
    withClient(async (reader) => {
      const count = async (c) => Number((await c.query(`SELECT count(*) FROM ${table} WHERE v = 'tx'`)).rows[0].count);
      await writer.query("BEGIN");
      await writer.query(`INSERT INTO ${table} VALUES (1, 'tx')`);
      assert.deepEqual([await count(writer), await count(reader)], [1, 0]);
      await writer.query("COMMIT");
      assert.equal(await count(reader), 1);
      await writer.query("BEGIN");
      await writer.query(`DELETE FROM ${table} WHERE v = 'tx'`);
      await writer.query("ROLLBACK");
      assert.equal(await count(reader), 1);
      await writer.query(`DELETE FROM ${table} WHERE v = 'tx'`);
    }),
  ));

test("errors carry their SQLSTATE, and abort the transaction only", () =>
  withClient(async (c) => {
    await rejectsWith("42P01", c.query("SELECT * FROM no_such_table_anywhere"));
    await rejectsWith("22012", c.query("SELECT 1 / $1::integer", [0]));
    await c.query("BEGIN");
    await rejectsWith("22P02", c.query("SELECT $1::integer", ["x"]));
    await rejectsWith("25P02", c.query("SELECT 1"));
    assert.equal((await c.query("COMMIT")).command, "ROLLBACK");
    assert.deepEqual((await c.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  }));

test("named queries survive transactions", () =>
  withClient(async (c) => {
    for (const n of range(30)) {
      const { rows } = await c.query({ name: "plus-one", text: "SELECT $1::integer + 1 AS n", values: [n] });
      assert.deepEqual(rows, [{ n: n + 1 }]);
    }
  }));

test("one name means each client's own text", async () => {
  const clients = range(6).map(() => new pg.Client(options));
  await Promise.all(clients.map((c) => c.connect()));
  try {
    for (const round of range(5)) {
      const got = await Promise.all(
        clients.map((c, n) => c.query({ name: "same", text: `SELECT ${n} AS n, $1::integer AS round`, values: [round] })),
      );
      assert.deepEqual(got.map((r) => r.rows[0]), clients.map((_, n) => ({ n, round })));
    }
  } finally {
    await Promise.all(clients.map((c) => c.end()));
  }
});

test("a named query that failed to parse can be tried again", () =>
  withClient(async (c) => {
    const later = freshName();
    const query = { name: "later", text: `SELECT count(*)::integer AS n FROM ${later} WHERE id > $1`, values: [0] };
    await rejectsWith("42P01", c.query(query));
    await c.query(`CREATE TABLE ${later} (id integer)`);
    assert.deepEqual((await c.query(query)).rows, [{ n: 0 }]);
    await c.query(`DROP TABLE ${later}`);
  }));

test("queries of one client queue in order", () =>
  withClient(async (c) => {
    const got = await Promise.all(range(200).map((n) => c.query("SELECT $1::integer AS n", [n])));
    assert.deepEqual(got.map((r) => r.rows[0].n), range(200));
  }));

test("a cursor reads in portions and closes early", () =>
  withClient(async (c) => {
    const cursor = c.query(new Cursor("SELECT generate_series(1, $1::integer) AS n", [1000]));
    assert.deepEqual((await cursor.read(3)).map((r) => r.n), [1, 2, 3]);
    assert.equal((await cursor.read(100)).length, 100);
    await cursor.close();
    assert.deepEqual((await c.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  }));

test("rows stream in batches, and a stream is left early", () =>
  withClient(async (c) => {
    const seen = [];
    for await (const row of c.query(new QueryStream("SELECT generate_series(0, $1::integer) AS n", [9999], { batchSize: 100 })))
      seen.push(row.n);
    assert.deepEqual(seen, range(10000));
    await c.query("BEGIN");
    for await (const row of c.query(new QueryStream("SELECT generate_series(0, 1000000) AS n", [], { batchSize: 100 }))) {
      if (row.n === 250) break;
    }
    assert.deepEqual((await c.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
    await c.query("COMMIT");
  }));

test("COPY goes in and out", () =>
  withClient(async (c) => {
    const lines = range(5000).map((n) => `${n + 10000}\trow ${n}\n`);
    await pipeline(Readable.from(lines), c.query(copy.from(`COPY ${table} FROM STDIN`)));
    const out = c.query(copy.to(`COPY (SELECT * FROM ${table} WHERE id >= 10000 ORDER BY id) TO STDOUT`));
    let text = "";
    for await (const chunk of out) text += chunk;
    assert.equal(text, lines.join(""));
    await c.query(`DELETE FROM ${table} WHERE id >= 10000`);
  }));

test("large values and large results", () =>
  withClient(async (c) => {
    const value = Buffer.alloc(12 * 1024 * 1024, "0123456789abcdef");
    assert.ok((await c.query("SELECT $1::bytea AS v", [value])).rows[0].v.equals(value));
    const { rows } = await c.query("SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 12000) n");
    assert.equal(rows.length, 12000);
    assert.equal(rows.at(-1).x.length, 1000);
  }));

test("a notice reaches its client", () =>
  withClient(async (c) => {
    const heard = once(c, "notice");
    await c.query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
    assert.equal((await heard)[0].message, "hello");
  }));

test("fifty clients keep their own transactions", async () => {
  await Promise.all(
    range(CLIENTS).map((n) =>
      withClient(async (c) => {
        for (const step of range(3)) {
          await c.query("BEGIN");
          await c.query(`INSERT INTO ${table} VALUES ($1, $2)`, [20000 + n * 10 + step, `c${n}`]);
          const { rows } = await c.query({
            name: `count-${n % 5}`,
            text: `SELECT count(*)::integer AS n FROM ${table} WHERE v = $1 AND ${n % 5} = ${n % 5}`,
            values: [`c${n}`],
          });
          assert.equal(rows[0].n, step + 1);
          await c.query("COMMIT");
        }
      }),
    ),
  );
  await withClient(async (c) => {
    assert.equal((await c.query(`DELETE FROM ${table} WHERE id >= 20000`)).rowCount, CLIENTS * 3);
  });
});

test("the driver's own pool", async () => {
  const pool = new pg.Pool({ ...options, max: 8 });
  try {
    const got = await Promise.all(range(200).map((n) => pool.query("SELECT $1::integer AS n", [n])));
    assert.deepEqual(got.map((r) => r.rows[0].n), range(200));
    assert.ok(pool.totalCount <= 8);
  } finally {
    await pool.end();
  }
});

test("a wrong password is refused with 28P01", () => {
  const url = new URL(POSTGRES_URL);
  url.password = "not-the-password";
  return rejectsWith("28P01", new pg.Client({ ...options, connectionString: url.href }).connect());
});

test("many clients listen, and hear each other and themselves", async () => {
  const listeners = await Promise.all(
    range(CLIENTS).map(async () => {
      const client = new pg.Client(options);
      await client.connect();
      client.heard = [];
      client.on("notification", (message) => client.heard.push(message));
      return client;
    }),
  );
  try {
    const channel = `${table}_news`;
    for (const client of listeners) await client.query(`LISTEN ${channel}`);
    await withClient((c) => c.query(`NOTIFY ${channel}, 'from outside'`));
    await listeners[0].query("SELECT pg_notify($1, 'own')", [channel]);
    assert.equal(listeners[0].heard.at(-1).payload, "own");
    assert.equal(listeners[0].heard.at(-1).processId, listeners[0].processID);
    for (const client of listeners) {
      // What was notified before a statement is heard when it ends, at the latest.
      await client.query("SELECT 1");
      assert.deepEqual(client.heard.map((message) => message.payload), ["from outside", "own"]);
      assert.equal(client.heard[1].processId, listeners[0].processID);
    }
    await listeners[1].query("BEGIN");
    await listeners[1].query(`UNLISTEN ${channel}`);
    await listeners[1].query("ROLLBACK");
    await listeners[2].query(`UNLISTEN ${channel}`);
    await listeners[0].query(`NOTIFY ${channel}, 'again'`);
    for (const client of listeners.slice(0, 3)) await client.query("SELECT 1");
    assert.deepEqual(listeners.slice(0, 3).map((client) => client.heard.length), [3, 3, 2]);
  } finally {
    await Promise.all(listeners.map((client) => client.end()));
  }
});
