#!/usr/bin/env bash
# Runs a command on every host of a Cloud TPU slice (v4, v5e, v5p, v6e), and follows the log of the first.
#
#   ./launch/tpu_pod.sh --name NAME --zone ZONE --bucket BUCKET --type TYPE [OPTION…] COMMAND [ARGUMENTS…]
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --bucket BUCKET --type v5p-128 --spot \
#       train configs/llama_8b.py --workdir /bucket/RUN
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --bucket BUCKET --existing train configs/llama_8b.py …
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --delete
#
# --bucket    a bucket that all hosts mount as the folder /bucket: see launch/mount.sh
# --type      creates the slice as a queued resource and waits for it: v4-8, v5litepod-16 (v5e), v5p-128, v6e-256
# --existing  uses a slice that is there, and never deletes it
# --spot      cheaper, and may be preempted: then the slice is made again, and the run goes on from its last checkpoint
# --keep      leaves a slice that this script has created in existence when the command has ended
# --delete    deletes the slice
# --project   another project than that of gcloud's configuration
# --dry-run   prints the commands instead of running them
#
# A slice that this script has created is deleted when it ends, however that is: when the command has ended, when it has
# failed, at Ctrl-C. Only --keep, or a machine that loses its power, leaves one behind; --delete then removes it.
# TPU7x and later have no queued resources: see launch/gke.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() {
  echo "error: $1" >&2
  exit 2
}

name='' zone='' bucket='' type='' project='' spot='' existing='' keep='' delete='' dry=''
while [[ ${1:-} == -* ]]; do
  case $1 in
  --name | --zone | --bucket | --type | --project) (($# > 1)) || fail "$1 needs a value" ;;&
  --name) name=$2 && shift 2 ;;
  --zone) zone=$2 && shift 2 ;;
  --bucket) bucket=$2 && shift 2 ;;
  --type) type=$2 && shift 2 ;;
  --project) project=$2 && shift 2 ;;
  --spot) spot=1 && shift ;;
  --existing) existing=1 && shift ;;
  --keep) keep=1 && shift ;;
  --delete) delete=1 && shift ;;
  --dry-run) dry=1 && shift ;;
  -h | --help) sed -n '2,22s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
  *) fail "there is no option $1 before the command; --help lists them" ;;
  esac
done
[[ $name && $zone ]] || fail "--name and --zone are needed"
[[ $dry ]] || command -v gcloud >/dev/null || fail "gcloud is not in PATH; see cloud.google.com/sdk/docs/install"
where=(--zone "$zone" ${project:+--project "$project"})

run() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

remove() {
  echo "deleting $name" >&2
  run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

if [[ $delete ]]; then
  remove
  exit
fi

(($#)) || fail "which command? for example: train configs/llama_8b.py --workdir /bucket/RUN"
[[ $bucket ]] || fail "--bucket is needed: all hosts mount it as /bucket, and what it holds outlives the slice"
if [[ $1 == train && ! " $* " =~ \ --workdir[\ =]/bucket/ ]]; then
  fail "train needs --workdir /bucket/RUN: all hosts write to it, and it must outlive the slice"
fi
if [[ $existing ]]; then
  [[ ! $type && ! $spot ]] || fail "--existing uses the slice as it is: --type and --spot are for a new one"
fi
case $type in
v4-*) kind=v4 runtime=tpu-ubuntu2204-base ;;
v5litepod-*) kind=v5e runtime=v2-alpha-tpuv5-lite ;;
v5p-*) kind=v5p runtime=v2-alpha-tpuv5 ;;
v6e-*) kind=v6e runtime=v2-alpha-tpuv6e ;;
'') [[ $existing ]] || fail "--type, as in v5p-128, creates a slice; --existing uses one" ;;
*) fail "--type $type: should be v4-N, v5litepod-N, v5p-N or v6e-N" ;;
esac
[[ ! $type ]] || echo "XLA flags: $(python3 "$root/research/runtime/xla_flags.py" "$kind")" >&2

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format 'value(state.state)'
}

create() {
  run gcloud compute tpus queued-resources create "$name" --node-id "$name" "${where[@]}" \
    --accelerator-type "$type" --runtime-version "$runtime" ${spot:+--spot} || return
  [[ ! $dry ]] || return 0
  local now=''
  until [[ $now == ACTIVE ]]; do
    sleep "${POLL_SECONDS:-30}"
    now=$(state)
    echo "$name is $now" >&2
    [[ $now != FAILED && $now != SUSPENDED ]] || return 1
  done
}

on() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker "$1" --command "$2"
}

# what runs there: everything that git would commit, with a Python that is new enough, apart from this connection
archive=''
facts=''
prepare() {
  archive=$(mktemp --suffix .tar.gz)
  facts=$(mktemp --directory) # which commit it is, as research/runtime/code_version.py reads it there
  mkdir "$facts/research"
  git -C "$root" describe --always --dirty --abbrev=40 --exclude '*' >"$facts/research/commit.txt"
  (cd "$root" && git ls-files -z --cached --others --exclude-standard |
    tar -czf "$archive" --null --files-from - --directory "$facts" research/commit.txt)
  run gcloud compute tpus tpu-vm scp "$archive" "$name:research.tar.gz" "${where[@]}" --worker all
  # the folders of packages and of compiled programs stay
  on all 'mkdir -p research && tar -xzf research.tar.gz -C research && cd research &&
    { command -v python3.11 || { sudo apt-get update -q && sudo apt-get install -qy python3.11 python3.11-venv; }; } &&
    python3.11 launch/install.py tpu buckets'
  on all "research/launch/mount.sh $(printf '%q' "$bucket")"
}

start() {
  local command
  command=$(printf '%q ' ./launch/local.sh "$@")
  command=$(printf '%q' "$command; echo \$? >exit_code")
  on all "cd research && rm -f exit_code log.txt && { setsid nohup bash -c $command >log.txt 2>&1 </dev/null & }"
}

# the log of the first host until the command has ended there; ends with its exit code, or with 255 if the connection did
# shellcheck disable=SC2016 # expands there
follow() {
  on 0 'cd research && until [ -f log.txt ]; do sleep 1; done; tail -n +1 -F log.txt & until [ -f ~/research/exit_code ];
    do sleep 5; done; sleep 2; kill %1; exit "$(cat ~/research/exit_code)"'
}

created=''
finish() {
  rm -rf "$archive" "$facts"
  [[ ! $created || $keep ]] || remove || echo "error: $name could not be deleted: is it there? --delete removes it" >&2
}
trap finish EXIT

if [[ ! $dry && ! $existing ]] && there=$(state 2>/dev/null); then
  fail "$name is there already, and $there; --existing uses it, --delete removes it"
fi
while true; do
  if [[ ! $existing ]]; then
    created=1
    create || fail "$name could not be made: it is $(state)"
  fi
  prepare
  start "$@"
  code=0
  follow || code=$?
  while ((code == 255)) && [[ ! $dry && ($existing || $(state) == ACTIVE) ]]; do
    echo "the connection to $name was lost; following again in ${POLL_SECONDS:-30} s" >&2
    sleep "${POLL_SECONDS:-30}"
    code=0
    follow || code=$?
  done
  if [[ $dry || ! $spot || $code != 255 ]]; then
    exit "$code"
  fi
  echo "$name was preempted: it is made again, and the run goes on from its last checkpoint" >&2
  remove
done
