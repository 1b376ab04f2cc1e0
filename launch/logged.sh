#!/usr/bin/env bash
# Runs a command whose output is kept: what launch/tpu_pod.sh starts on each host.
#
#   launch/logged.sh FOLDER COMMAND [ARGUMENTS…]
#
# The output goes to logs/TIME-HOST.txt here, which log.txt points to, and each minute into FOLDER (a bucket's, which
# outlives this machine); no earlier log is overwritten. At the end, the file exit_code has the command's exit code.
set -euo pipefail
folder=${1:?which folder?}
shift

mkdir -p logs
log=$(date -u +%Y-%m-%dT%H-%M-%S)-$(hostname).txt
: >"logs/$log"
ln -sfn "logs/$log" log.txt

copy() {
  mkdir -p "$folder" && cp "logs/$log" "$folder/$log"
}

(while sleep "${COPY_SECONDS:-60}"; do copy; done) 2>/dev/null &
copying=$!
code=0
"$@" >>"logs/$log" 2>&1 </dev/null || code=$?
kill "$copying"
copy || echo "error: this log could not be copied to $folder" >>"logs/$log"
echo "$code" >exit_code
