-- The platform's tables, as far as the gateway needs them, and the gateway's own. Names of tables and
-- columns are those of the platform schema. Ids are UUIDs as text, times RFC 3339 in UTC.
CREATE TABLE organizations (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE, billing_email TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
) STRICT;

CREATE TABLE projects (
  id TEXT PRIMARY KEY, organization_id TEXT NOT NULL REFERENCES organizations(id) ON DELETE CASCADE,
  name TEXT NOT NULL, slug TEXT NOT NULL, ref TEXT NOT NULL UNIQUE,
  database_host TEXT NOT NULL DEFAULT '', database_port INTEGER NOT NULL DEFAULT 5432,
  database_name TEXT NOT NULL DEFAULT '', database_user TEXT NOT NULL DEFAULT '',
  database_password TEXT NOT NULL DEFAULT '', postgres_meta_url TEXT NOT NULL DEFAULT '',
  supabase_url TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT 'ACTIVE_HEALTHY',
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
) STRICT;
CREATE INDEX projects_organization ON projects (organization_id);

CREATE TABLE databases (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  type TEXT NOT NULL CHECK (type IN ('postgres', 'redis', 'mongodb', 'bun_api')),
  connection_string TEXT NOT NULL,
  description TEXT, host TEXT, port INTEGER, database_name TEXT, username TEXT,
  ssl_enabled INTEGER NOT NULL DEFAULT 0, config TEXT NOT NULL DEFAULT '{}',
  status TEXT NOT NULL DEFAULT 'active'
    CHECK (status IN ('active', 'inactive', 'maintenance', 'error')),
  gateway_slug TEXT NOT NULL UNIQUE, tier TEXT NOT NULL DEFAULT 'default',
  max_upstream INTEGER CHECK (max_upstream > 0), max_clients INTEGER CHECK (max_clients > 0),
  pool_mode TEXT CHECK (pool_mode IN ('transaction', 'session', 'statement')),
  allow_passthrough_auth INTEGER NOT NULL DEFAULT 1,
  key_id TEXT, version INTEGER NOT NULL DEFAULT 1, last_connected_at TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  UNIQUE (project_id, name)
) STRICT;

CREATE TABLE gateway_credentials (
  id TEXT PRIMARY KEY,
  database_id TEXT REFERENCES databases(id) ON DELETE CASCADE,
  project_id TEXT REFERENCES projects(id) ON DELETE CASCADE,
  username TEXT NOT NULL, public_id TEXT NOT NULL UNIQUE CHECK (length(public_id) = 8),
  role TEXT NOT NULL CHECK (role IN ('read', 'write', 'admin')),
  scram_iterations INTEGER NOT NULL CHECK (scram_iterations >= 4096), scram_salt BLOB NOT NULL,
  scram_stored_key BLOB NOT NULL CHECK (length(scram_stored_key) = 32),
  scram_server_key BLOB NOT NULL CHECK (length(scram_server_key) = 32),
  disabled_at TEXT, expires_at TEXT, last_used_at TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  version INTEGER NOT NULL DEFAULT 1,
  CHECK ((database_id IS NULL) <> (project_id IS NULL))
) STRICT;
CREATE UNIQUE INDEX gateway_credentials_of_database
  ON gateway_credentials (database_id, username) WHERE database_id IS NOT NULL;
CREATE UNIQUE INDEX gateway_credentials_of_project
  ON gateway_credentials (project_id, username) WHERE project_id IS NOT NULL;

CREATE TABLE gateway_tokens (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, token_prefix TEXT NOT NULL UNIQUE,
  token_sha256 BLOB NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
  role TEXT NOT NULL CHECK (role IN ('owner', 'operator', 'viewer')),
  created_by TEXT, expires_at TEXT, revoked_at TEXT, last_used_at TEXT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
) STRICT;

CREATE TABLE database_audit_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  database_id TEXT, project_ref TEXT, operation TEXT NOT NULL, actor TEXT NOT NULL,
  actor_kind TEXT NOT NULL, outcome TEXT NOT NULL CHECK (outcome IN ('ok', 'denied', 'error')),
  ip TEXT, metadata TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX database_audit_log_database ON database_audit_log (database_id, seq DESC);
CREATE TRIGGER database_audit_log_keeps BEFORE UPDATE ON database_audit_log
  BEGIN SELECT RAISE(ABORT, 'database_audit_log is append-only'); END;
CREATE TRIGGER database_audit_log_stays BEFORE DELETE ON database_audit_log
  BEGIN SELECT RAISE(ABORT, 'database_audit_log is append-only'); END;
