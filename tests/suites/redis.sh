# For the suites of Redis clients, to be sourced: the same server directly and through polypool, as the user `default`.
#
# Each suite runs under `tests/with servers gateway --`. Its tests expect to be the user that a server begins with; so
# polypool issues a credential of that name, with the role admin. They know no password: `redis-relay` logs them in, in
# both runs.

set -euo pipefail
suites=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${POLYPOOL_SUITE_OUT:-$(mktemp -d)}
mkdir -p "$out"
out=$(realpath "$out")
sides=${POLYPOOL_SUITE_SIDES:-direct through}
relay=

# side_url direct|through: where that side leads.
side_url() {
  if [ "$1" = direct ]; then
    echo "$POLYPOOL_TEST_REDIS_URL"
    return
  fi
  local bin=${POLYPOOL_BIN:-$suites/../../target/debug/polypool}
  "$bin" credential issue --project demo --user default --role admin --json \
    --admin "$POLYPOOL_ADMIN_URL" --token "$(cat "$POLYPOOL_ADMIN_TOKEN_FILE")" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["urls"]["redis"])'
}

# relay_on SIDE URL [PORT]: a relay on that port of loopback or a free one, which is left in $relay_port.
relay_on() {
  coproc RELAY { exec "$suites/redis-relay" "${3:-0}" "$2" 2>"$out/$1.relay.log"; }
  relay=$RELAY_PID
  read -r _ relay_port <&"${RELAY[0]}" || { echo "suite: port ${3:-0} of loopback is taken" >&2; exit 2; }
}

relay_off() {
  kill "$relay"
  wait "$relay" 2>/dev/null || true
  relay=
}

# mocha_verdicts REPORT: the verdicts of mocha's report in JSON.
mocha_verdicts() {
  python3 - "$1" <<'PY'
import json, sys
with open(sys.argv[1]) as file:
    report = json.load(file)
for kind, verdict in (("passes", "pass"), ("failures", "fail"), ("pending", "skip")):
    for test in report[kind]:
        print(f"{verdict}\t{' '.join(test['fullTitle'].split())}")
PY
}

# finish NAME IS_WHOLE: the comparison, if everything ran on both sides; else the verdicts.
finish() {
  if [ "$2" != yes ] || [ "$sides" != "direct through" ]; then
    cat "$out"/*.verdicts
    return
  fi
  "$suites/compare" "$1" "$out/direct.verdicts" "$out/through.verdicts"
}
