#!/usr/bin/env bash
# Runs a command on NVIDIA GPUs of this machine: on all of them, or on those that are chosen. One process drives them.
#
#   ./launch/gpu.sh [--gpus N | --gpus 0,3] [--dry-run] COMMAND [ARGUMENTS…]
#   ./launch/gpu.sh train configs/gpt2_124m.py --step.accumulation 2
#   ./launch/gpu.sh --gpus 1 train configs/gpt2_124m.py
#
# --gpus      how many, or which by their numbers; all, if it is not given
# --dry-run   shows what would be run, and checks only that
#
# Paths are relative to the folder that you are in. The same command goes on where a run stopped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

fail() {
  echo "error: $1" >&2
  exit 2
}

chosen='' dry=''
while [[ ${1:-} == -* ]]; do
  case $1 in
  --gpus) chosen=${2:?--gpus needs a number or a list} && shift 2 ;;
  --dry-run) dry=1 && shift ;;
  -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
  *) fail "there is no option $1 before the command; --help lists them" ;;
  esac
done
(($#)) || fail "which command? for example: ./launch/gpu.sh train configs/gpt2_124m.py"

if ! there=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null); then
  [[ $dry ]] || fail "nvidia-smi finds no GPU; on a machine without one, use ./launch/local.sh"
  there=$'0\n1\n2\n3\n4\n5\n6\n7'
fi
[[ $chosen =~ ^[0-9,]*$ ]] || fail "--gpus $chosen is neither a number nor a list like 0,3"
if [[ $chosen == *,* ]]; then
  devices=$chosen
elif [[ $chosen ]]; then
  ((chosen >= 1 && chosen <= $(wc -l <<<"$there"))) || fail "--gpus $chosen: this machine has ${there//$'\n'/, }"
  devices=$(head -n "$chosen" <<<"$there" | paste -sd,)
else
  devices=$(paste -sd, <<<"$there")
fi
for device in ${devices//,/ }; do
  grep -qx "$device" <<<"$there" || fail "--gpus $chosen: this machine has no GPU $device; it has ${there//$'\n'/, }"
done

echo "GPUs $devices; XLA flags: $(python3 "$here/../research/runtime/xla_flags.py" gpu)" >&2
if [[ $dry ]]; then
  printf 'CUDA_VISIBLE_DEVICES=%s' "$devices"
  printf ' %q' "$here/local.sh" "$@"
  echo
  exit
fi
export CUDA_VISIBLE_DEVICES=$devices
exec "$here/local.sh" "$@"
