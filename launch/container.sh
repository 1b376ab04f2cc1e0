#!/usr/bin/env bash
# What a container of launch/Dockerfile runs: a command, as launch/local.sh does, but with nothing to install.
#
#   docker run --gpus all research COMMAND [ARGUMENTS…]
#
# RESEARCH_CODE names an archive whose code is run instead of the image's (launch/gke/run.py --code), NCCL_PROFILE a
# script of the machine type that says how GPUs of different nodes reach each other.
set -euo pipefail
: "${1:?which command? for example: train configs/quickstart.py}"

if [[ ${RESEARCH_CODE-} ]]; then
  code=$(mktemp --directory)
  tar -xzf "$RESEARCH_CODE" -C "$code"
  cd "$code"
  export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}
fi
if [[ ${NCCL_PROFILE-} ]]; then
  set +eu # it is not ours
  # shellcheck source=/dev/null
  source "$NCCL_PROFILE" || echo "error: $NCCL_PROFILE could not be read: no GPUDirect" >&2
  set -eu
fi
exec python -P -m research "$@"
