#!/usr/bin/env bash
# Several Ray nodes on one machine, to try what needs more than one. Stops what it started, and nothing else.
#   cluster/local.sh up [NODES] [CPUS_PER_NODE]     default 3 nodes with 1 CPU; prints the addresses
#   cluster/local.sh kill N                         ends node N (1 is the first after the head) without warning
#   cluster/local.sh down
# PORT (26379) and DASHBOARD_PORT (28265) choose the ports, STATE the folder of its notes. Ray keeps 10002–19999 for its workers.
set -euo pipefail

STATE=${STATE:-/tmp/zj-cluster-$(id -u)} # short: the path of a Unix socket may have 107 characters
PORT=${PORT:-26379} DASHBOARD_PORT=${DASHBOARD_PORT:-28265}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RAY=.venv/bin/ray
[[ -x $RAY ]] || RAY=$(command -v ray) || { echo "error: ray is not installed — run: make install" >&2; exit 1; }

# start NAME OPTIONS...: one node, whose process id goes to $STATE/NAME.pid
start() {
  local name=$1
  shift
  setsid "$RAY" start --block --disable-usage-stats --object-store-memory=200000000 "$@" >"$STATE/$name.log" 2>&1 </dev/null &
  echo "$! $(ps -o lstart= -p $!)" >"$STATE/$name.pid"
}

# The start time is part of a process's name here: its id alone may belong to somebody else by now.
alive() { [[ -f $1 ]] && [[ $(ps -o lstart= -p "$(cut -d' ' -f1 "$1")") == "$(cut -d' ' -f2- "$1")" ]]; }

descendants() {
  local child
  for child in $(pgrep -P "$1"); do
    echo "$child"
    descendants "$child"
  done
}

# stop NAME SIGNAL: the node's process and all that it started
stop() {
  local file=$STATE/$1.pid pid family
  if alive "$file"; then
    pid=$(cut -d' ' -f1 "$file")
    family=$(descendants "$pid")
    kill "-$2" "$pid" $family 2>/dev/null || true
    for _ in $(seq 50); do
      kill -0 "$pid" $family 2>/dev/null || break
      sleep 0.2
    done
    kill -KILL "$pid" $family 2>/dev/null || true
  fi
  rm -f "$file"
}

wait_for() { # PORT NAME
  for _ in $(seq 600); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
    alive "$STATE/$2.pid" || break
    sleep 0.2
  done
  cat "$STATE/$2.log" >&2
  echo "error: node $2 did not start (its log is above)" >&2
  exit 1
}

case ${1:-} in
  up)
    nodes=${2:-3} cpus=${3:-1}
    ! alive "$STATE/head.pid" || { echo "error: it is up already — end it with: cluster/local.sh down" >&2; exit 1; }
    mkdir -p "$STATE"
    start head --head --port="$PORT" --dashboard-port="$DASHBOARD_PORT" --temp-dir="$STATE/ray" --num-cpus="$cpus" \
      --ray-client-server-port=$((PORT + 1)) --dashboard-agent-listen-port=$((PORT + 10))
    wait_for "$PORT" head
    wait_for "$DASHBOARD_PORT" head
    for ((i = 1; i < nodes; i++)); do
      start "node$i" --address="127.0.0.1:$PORT" --num-cpus="$cpus" --dashboard-agent-listen-port=$((PORT + 10 + i))
    done
    echo "RAY_ADDRESS=127.0.0.1:$PORT        for zj run (needs the token that ray start used, see ~/.ray/auth_token)"
    echo "http://127.0.0.1:$DASHBOARD_PORT   for zj submit --address"
    ;;
  kill) stop "node${2:?which node?}" KILL ;;
  down)
    for file in "$STATE"/node*.pid "$STATE/head.pid"; do
      [[ ! -f $file ]] || stop "$(basename "$file" .pid)" TERM
    done
    rm -rf "$STATE"
    ;;
  *)
    sed -n '2,6s/^# //p' "$0"
    exit 2
    ;;
esac
