#!/usr/bin/env bash
# Runs the tests, on the CPU. Installs what they need into .venv at the first start.
#
#   ./launch/test.sh [PYTEST ARGUMENTS…]
#   ./launch/test.sh tests/test_config.py -k validate
#
# Paths are relative to the root of the repository.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare test
cd "$root"
exec .venv/bin/python -m pytest -n logical --maxprocesses 4 "$@"
