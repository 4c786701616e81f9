# How the suites of MongoDB's drivers run their two sides: at once, each with servers and a gateway of its own. To be sourced.

sides=${POLYPOOL_SUITE_SIDES:-direct through}

run_sides() { # OUT COMMAND...; the command finds POLYPOOL_SUITE_SIDE and POLYPOOL_SUITE_OUT
  local side pids=() status=0
  export POLYPOOL_SUITE_OUT=$1 POLYPOOL_TEST_EXTRA=mongodb-set
  shift
  for side in $sides; do
    POLYPOOL_SUITE_SIDE=$side "$here/../with" servers gateway -- "$@" &
    pids+=("$!")
  done
  # Each takes its servers with it.
  trap 'kill "${pids[@]}" 2>/dev/null; wait; exit 143' INT TERM HUP
  for side in "${pids[@]}"; do wait "$side" || status=$?; done
  trap - INT TERM HUP
  [ "$status" = 0 ] || exit "$status"
}
