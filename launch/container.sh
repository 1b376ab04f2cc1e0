#!/usr/bin/env bash
# What a container of launch/Dockerfile runs: a command, as launch/local.sh does, but with nothing to install.
#
#   docker run --gpus all research COMMAND [ARGUMENTS…]
set -euo pipefail
exec python -P -m "research.${1:?which command? for example: train configs/quickstart.py}" "${@:2}"
