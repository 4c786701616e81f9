// postgres.js, unchanged: statements under names of its own, many queries under way on one connection, transactions that
// are sent as one, cursors, LISTEN, cancel. (COPY is tried with node-postgres.)
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import postgres from "postgres";

import { POSTGRES_URL, freshName, range } from "./shared.mjs";

const table = freshName();

const using = async (use, more = {}) => {
  const sql = postgres(POSTGRES_URL, { max: 8, connect_timeout: 60, onnotice: () => {}, ...more });
  try {
    return await use(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
};

before(() => using((sql) => sql`CREATE TABLE ${sql(table)} (id integer PRIMARY KEY, v text)`));
after(() => using((sql) => sql`DROP TABLE ${sql(table)}`));

const numbers = (rows) => rows.map((row) => row.n);

test("hundreds of queries under way on one connection keep their order, errors among them", () =>
  using(
    async (sql) => {
      const got = await Promise.allSettled(range(300).map((n) => sql`SELECT ${n}::integer / ${n % 10 === 3 ? 0 : 1}::integer AS n`));
      for (const [n, one] of got.entries()) {
        if (n % 10 === 3) assert.equal(one.reason?.code, "22012");
        else assert.deepEqual(numbers(one.value), [n]);
      }
    },
    { max: 1 },
  ));

test("its pool shares statements of one text among clients", () =>
  using(async (sql) => {
    const got = await Promise.all(range(400).map((n) => sql`SELECT ${n}::integer AS n, ${`v${n}`}::text AS v`));
    assert.deepEqual(
      got.map(([row]) => row),
      range(400).map((n) => ({ n, v: `v${n}` })),
    );
  }));

test("types that it asks the server for first", () =>
  using(async (sql) => {
    const rows = range(20).map((n) => ({ id: 1000 + n, v: n % 2 ? `row ${n}` : null }));
    await sql`INSERT INTO ${sql(table)} ${sql(rows)}`;
    const ids = rows.map((row) => row.id);
    assert.deepEqual([...(await sql`SELECT id, v FROM ${sql(table)} WHERE id = ANY(${ids}) ORDER BY id`)], rows);
    const described = await sql`SELECT id, v FROM ${sql(table)} WHERE id = ${1000}`.describe();
    assert.deepEqual(described.columns.map((column) => column.name), ["id", "v"]);
    await sql`DELETE FROM ${sql(table)} WHERE id = ANY(${ids})`;
  }));

test("a transaction that is sent as one, and one with savepoints", () =>
  using(async (sql) => {
    const results = await sql.begin((t) => [
      t`INSERT INTO ${t(table)} VALUES (1, 'one')`,
      t`INSERT INTO ${t(table)} VALUES (2, 'two')`,
      t`SELECT count(*)::integer AS n FROM ${t(table)} WHERE id < 10`,
    ]);
    assert.deepEqual(numbers(results[2]), [2]);
    await assert.rejects(
      sql.begin((t) => [t`DELETE FROM ${t(table)} WHERE id < 10`, t`INSERT INTO ${t(table)} VALUES (1, 'again'), (1, 'and again')`]),
      { code: "23505" },
    );
    await sql.begin(async (t) => {
      await t`UPDATE ${t(table)} SET v = 'kept' WHERE id = 1`;
      await assert.rejects(
        t.savepoint((inner) => inner`INSERT INTO ${inner(table)} VALUES (1, 'twice')`),
        { code: "23505" },
      );
      await t`UPDATE ${t(table)} SET v = 'kept too' WHERE id = 2`;
    });
    const kept = await sql`SELECT v FROM ${sql(table)} WHERE id < 10 ORDER BY id`;
    assert.deepEqual(kept.map((row) => row.v), ["kept", "kept too"]);
    await sql`DELETE FROM ${sql(table)} WHERE id < 10`;
  }));

test("a cursor is read in portions, and left early", () =>
  using(async (sql) => {
    const portions = [];
    await sql`SELECT generate_series(1, 1000) AS n`.cursor(300, (rows) => void portions.push(rows.length));
    assert.deepEqual(portions, [300, 300, 300, 100]);
    for await (const [row] of sql`SELECT generate_series(1, 1000) AS n`.cursor()) {
      if (row.n === 5) break;
    }
    assert.deepEqual(numbers(await sql`SELECT 1 AS n`), [1]);
  }));

test("texts of several statements, and none prepared", () =>
  using(
    async (sql) => {
      const results = await sql.unsafe("SELECT 1 AS n; SELECT 2 AS n");
      assert.deepEqual(results.map(numbers), [[1], [2]]);
      const got = await Promise.all(range(200).map((n) => sql`SELECT ${n}::integer AS n`));
      assert.deepEqual(got.flatMap(numbers), range(200));
    },
    { prepare: false },
  ));

test("it listens on a connection of its own, and hears the others", () =>
  using(async (sql) => {
    const channel = freshName();
    const heard = [];
    let enough;
    const all = new Promise((resolve) => (enough = resolve));
    const { unlisten } = await sql.listen(channel, (payload) => {
      heard.push(payload);
      if (heard.length === 100) enough();
    });
    for (const n of range(100)) await sql.notify(channel, String(n));
    await all;
    assert.deepEqual(heard, range(100).map(String));
    await unlisten();
  }));

test("what a reserved connection sets stays with it", () =>
  using(async (sql) => {
    const [one, other] = await Promise.all([sql.reserve(), sql.reserve()]);
    await one`SET search_path TO pg_catalog`;
    await other`SET search_path TO information_schema`;
    for (const _ of range(20)) {
      const [a, b] = await Promise.all([one`SHOW search_path`, other`SHOW search_path`]);
      assert.deepEqual([a[0].search_path, b[0].search_path], ["pg_catalog", "information_schema"]);
    }
    one.release();
    other.release();
  }));

test("a cancelled query ends with 57014, and the next one runs", () =>
  using(async (sql) => {
    const mark = freshName();
    const query = sql.unsafe(`SELECT pg_sleep(60) /* ${mark} */`).execute();
    const refused = assert.rejects(query, { code: "57014" });
    const running = () => sql`SELECT FROM pg_stat_activity WHERE query LIKE ${`%${mark}%`} AND query NOT LIKE '%pg_stat_activity%'`;
    while ((await running()).count === 0);
    query.cancel();
    await refused;
    assert.deepEqual(numbers(await sql`SELECT 1 AS n`), [1]);
  }));
