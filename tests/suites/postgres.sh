# For the PostgreSQL suites, to be sourced: the same server directly and through polypool, as its superuser.
#
# The suites make types, roles and settings as they please, so the server must be thrown away afterwards: each suite runs
# under `tests/with servers gateway --`.

set -euo pipefail
suites=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${POLYPOOL_TEST_CACHE:-$HOME/.cache/polypool-tests}/suites
: "${POLYPOOL_TEST_POSTGRES_SUPERUSER_URL:?run this under: tests/with servers gateway --}" "${POLYPOOL_ADMIN_URL:?}"
mkdir -p "$cache"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf 'suite: %s\n' "$*" >&2; }

# Suites connect to the database `postgres` by name as well; a second one would be another tenant.
upstream=${POLYPOOL_TEST_POSTGRES_SUPERUSER_URL%/*}/postgres

# url_parts URL: user, password, host, port and database of a URL, unescaped, a line each.
url_parts() {
  python3 - "$1" <<'PY'
import sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
for part in (url.username, url.password, url.hostname, url.port, url.path[1:]):
    print(urllib.parse.unquote(str(part)))
PY
}

# Settings by which libpq, asyncpg and node-postgres find the server itself, or (`polypool`) the same by way of polypool.
choose() { # direct|polypool
  local parts
  mapfile -t parts < <(url_parts "$upstream")
  export PGUSER=${parts[0]} PGPASSWORD=${parts[1]} PGHOST=${parts[2]} PGPORT=${parts[3]} PGDATABASE=${parts[4]}
  if [ "$1" = polypool ]; then
    export PGUSER=$PGUSER.suite PGHOST=${POLYPOOL_POSTGRES_LISTEN%:*} PGPORT=${POLYPOOL_POSTGRES_LISTEN##*:}
  fi
}

register() {
  local bin=${POLYPOOL_BIN:-$suites/../../target/debug/polypool}
  "$bin" add "$upstream" --project suites --name suite \
    --admin "$POLYPOOL_ADMIN_URL" --token "$(cat "$POLYPOOL_ADMIN_TOKEN_FILE")" >"$scratch/registered"
}

# python_environment NAME REQUIREMENT...: a virtual environment with just these, made again when they change.
python_environment() {
  venv=$cache/$1-venv
  shift
  [ "$(cat "$venv/.requirements" 2>/dev/null)" != "$*" ] || return 0
  say "python packages into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q "$@" >&2
  echo "$*" >"$venv/.requirements"
}

# both NAME COMMAND...: runs the suite directly and through polypool, and compares. The command gets the name of the
# run (`direct` or `polypool`) and leaves the verdicts in `$scratch/RUN`. With $SUITE_RUNS only those, without comparison.
both() {
  local name=$1 run
  shift
  register
  for run in ${SUITE_RUNS:-direct polypool}; do
    choose "$run"
    say "$name, $run"
    "$@" "$run" || true
    [ -z "${SUITE_KEEP:-}" ] || cp "$scratch/$run"* "$SUITE_KEEP/"
  done
  [ -n "${SUITE_RUNS:-}" ] || "$suites/compare" "$name" "$scratch/direct" "$scratch/polypool"
}
