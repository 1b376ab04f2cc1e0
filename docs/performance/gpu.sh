#!/usr/bin/env bash
# Builds, checks and measures on one NVIDIA GPU, in under ten minutes; what it measured is left beside it as JSON.
#
#   docs/performance/gpu.sh [--wheels DIR] [--dry-run]
#
# Uses the python3 in PATH, which must have jax with CUDA, torch and transformers; what else is missing is installed
# into build/gpu, from DIR if the machine has no network. With --dry-run it goes the same way on the CPU, with models
# for laptops in place of the real ones, and leaves its numbers in build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

wheels=() dry=
while (($#)); do
  case $1 in
  --wheels) wheels=(--no-index --find-links "${2:?--wheels needs a folder}") && shift 2 ;;
  --dry-run) dry=yes && shift ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
done

began=$SECONDS
out=docs/performance
cases=(gpu:gpt2 gpu:llama gpu:bert gpu:t5)
visibility=(gpt2_packed gpt2_prefix)
base=gpt2
turns=(--rounds 3 --count 10)
if [[ $dry ]]; then
  export JAX_PLATFORMS=cpu
  out=build/performance cases=(cpu:laptop) visibility=(laptop) base=laptop turns=(--rounds 1 --count 2)
  python=.venv/bin/python
else
  python3 -m venv --system-site-packages build/gpu
  python=build/gpu/bin/python
  "$python" -m pip install -q "${wheels[@]}" -e '.[metrics,gguf,tfds]' pytest hypothesis
  nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv
  # compiled programs of other machines do not count as ours
  export RESEARCH_CACHE=$PWD/build/gpu-cache
fi
mkdir -p "$out"

JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} "$python" -m pytest -q tests/models/kernels/test_cudnn.py tests/models/kernels/test_kernels.py

measure() { # NAME ARGUMENTS…: at most 100 s, so that one that hangs does not cost the others
  echo "== $1 after $((SECONDS - began)) s"
  timeout 100 "$python" -m research benchmark "${@:2}" --out "$out/$1.json" || echo "$1 failed"
}

for case in "${cases[@]}"; do
  measure "${case/:/_}" train "${case#*:}" --against hf "${turns[@]}"
done
for case in "${visibility[@]}"; do
  measure "visibility_$case" train "$case" --against "$base" "${turns[@]}"
done
smollm2=$(./launch/fetch_smollm2.sh) && for batch in 1 16; do
  measure "generate_$batch" generate "$smollm2" --batch "$batch" --against hf --rounds 3
done
measure save save "$base" "${turns[@]}"
measure start start "$base"
echo "all after $((SECONDS - began)) s"
