#!/usr/bin/env bash
# What a container of launch/Dockerfile runs: a command, as launch/local.sh does, but with nothing to install.
#
#   docker run --gpus all research COMMAND [ARGUMENTS…]
set -euo pipefail
: "${1:?which command? for example: train configs/quickstart.py}"
exec python -P -m research "$@"
