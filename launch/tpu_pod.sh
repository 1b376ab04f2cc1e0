#!/usr/bin/env bash
# Runs a command on every host of a Cloud TPU slice (v4, v5e, v5p, v6e), and follows the log of the first.
# docs/launching.md says where everything is then.
#
#   ./launch/tpu_pod.sh --name NAME --zone ZONE --bucket BUCKET --type TYPE [OPTION…] COMMAND [ARGUMENTS…]
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --bucket BUCKET --type v5p-128 --spot \
#       train configs/llama_8b.py --workdir /bucket/RUN
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --bucket BUCKET --existing train configs/llama_8b.py …
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --bucket BUCKET --type v5p-128 --detach train …
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --follow
#   ./launch/tpu_pod.sh --name mine --zone us-east5-a --delete
#
# --bucket    a bucket that all hosts mount as the folder /bucket: see launch/mount.sh
# --type      creates the slice as a queued resource and waits for it: v4-8, v5litepod-16 (v5e), v5p-128, v6e-256
# --existing  uses a slice that is there, and never deletes it
# --spot      cheaper, and may be preempted: then the slice is made again, and the run goes on from its last checkpoint
# --keep      leaves a slice that this script has created in existence when the command has ended
# --detach    starts the command and leaves: it goes on without this machine, and the slice stays until --delete
# --follow    follows the command that runs there, and ends with its exit code; Ctrl-C leaves it running
# --delete    deletes the slice of that name, whoever has made it
# --project   another project than that of gcloud's configuration
# --dry-run   prints the commands instead of running them
#
# A slice that this script has created, and none that it has not, is deleted when it ends, however that is: when the
# command has ended, when it has failed, at Ctrl-C. Only --keep and --detach, or a machine that loses its power, leave one
# behind; --delete then removes it. Logs outlive it, in the bucket: logs/NAME/TIME-HOST.txt, of every host and start.
# TPU7x and later have no queued resources: see launch/gke.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() {
  echo "error: $1" >&2
  exit 2
}

name='' zone='' bucket='' type='' project='' spot='' existing='' keep='' detach='' follow='' delete='' dry=''
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
  --detach) detach=1 && shift ;;
  --follow) follow=1 && shift ;;
  --delete) delete=1 && shift ;;
  --dry-run) dry=1 && shift ;;
  -h | --help) sed -n '2,28s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
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

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format 'value(state.state)'
}

on() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker "$1" --command "$2"
}

# the log of the first host until the command has ended there; ends with its exit code, or with 255 if the connection did
# shellcheck disable=SC2016 # expands there
follow_once() {
  on 0 'cd research && until [ -f log.txt ]; do sleep 1; done; tail -n +1 -F log.txt & until [ -f ~/research/exit_code ];
    do sleep 5; done; sleep 2; kill %1; exit "$(cat ~/research/exit_code)"'
}

# the same, taken up again where the connection was lost, while the slice is there
follow_all() {
  code=0
  follow_once || code=$?
  while ((code == 255)) && [[ ! $dry && ($existing || $(state) == ACTIVE) ]]; do
    echo "the connection to $name was lost; following again in ${POLL_SECONDS:-30} s" >&2
    sleep "${POLL_SECONDS:-30}"
    code=0
    follow_once || code=$?
  done
}

if [[ $delete || $follow ]]; then
  (($# == 0)) || fail "--delete and --follow take no command"
  [[ ! ($delete && $follow) ]] || fail "--follow and --delete are two commands"
  if [[ $delete ]]; then
    remove
    exit
  fi
  follow_all
  exit "$code"
fi

(($#)) || fail "which command? for example: train configs/llama_8b.py --workdir /bucket/RUN"
[[ $bucket ]] || fail "--bucket is needed: all hosts mount it as /bucket, and what it holds outlives the slice"
if [[ $1 == train && ! " $* " =~ \ --workdir[\ =]/bucket/ ]]; then
  fail "train needs --workdir /bucket/RUN: all hosts write to it, and it must outlive the slice"
fi
[[ ! ($detach && $spot) ]] ||
  fail "--detach leaves nobody who makes a preempted slice again: without --spot, or without --detach under nohup or tmux"
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

# by which a slice of this script is told from another's of the same name
label=launch-$(date -u +%Y%m%dt%H%M%S)-$$
mine() {
  local there
  there=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format 'value(tpu.nodeSpec[0].node.labels.launched)') && [[ $there == "$label" ]]
}

create() {
  run gcloud compute tpus queued-resources create "$name" --node-id "$name" "${where[@]}" \
    --accelerator-type "$type" --runtime-version "$runtime" --labels "launched=$label" ${spot:+--spot} || return
  [[ ! $dry ]] || return 0
  local now=''
  until [[ $now == ACTIVE ]]; do
    sleep "${POLL_SECONDS:-30}"
    now=$(state)
    echo "$name is $now" >&2
    [[ $now != FAILED && $now != SUSPENDED ]] || return 1
  done
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
    while IFS= read -r -d '' file; do [[ ! -e $file ]] || printf '%s\0' "$file"; done | # some may have been removed
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
  command=$(printf '%q ' ./launch/logged.sh "/bucket/logs/$name" ./launch/local.sh "$@")
  on all "cd research && rm -f exit_code log.txt && { setsid nohup $command >/dev/null 2>&1 </dev/null & }"
}

created=''
finish() {
  rm -rf "$archive" "$facts"
  [[ $created && ! $keep ]] || return 0
  if [[ $dry ]] || mine 2>/dev/null; then
    remove || echo "error: $name could not be deleted; --delete removes it" >&2
  else
    echo "$name was not made by this start, or is gone: nothing is deleted" >&2
  fi
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
  if [[ $detach ]]; then
    keep=1
    again="$0 --name $name --zone $zone${project:+ --project $project}"
    echo "$name goes on without this machine, and costs until it is deleted" >&2
    echo "  $again --follow    shows its log, and ends with its exit code" >&2
    echo "  $again --delete    deletes it" >&2
    echo "  gs://$bucket/logs/$name/ has the logs of all hosts, a minute old" >&2
    exit
  fi
  follow_all
  if [[ $dry || ! $spot || $code != 255 ]]; then
    exit "$code"
  fi
  echo "$name was preempted: it is made again, and the run goes on from its last checkpoint" >&2
  remove
done
