// What the suites share: the URLs under test, and names that no other test uses.
import { randomUUID } from "node:crypto";

const variable = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; see tests/drivers/README.md`);
  return value;
};

export const POSTGRES_URL = variable("POLYPOOL_URL_POSTGRES");
export const REDIS_URL = variable("POLYPOOL_URL_REDIS");
export const MONGODB_URL = variable("POLYPOOL_URL_MONGODB");
export const MONGODB_DATABASE = process.env.POLYPOOL_TEST_MONGODB_DATABASE ?? "app";
export const MONGODB_IS_SET = process.env.POLYPOOL_TEST_MONGODB_IS_SET === "1";

export const freshName = () => `t_${randomUUID().replaceAll("-", "").slice(0, 16)}`;

export const range = (n) => Array.from({ length: n }, (_, i) => i);
