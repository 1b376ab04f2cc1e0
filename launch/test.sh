#!/usr/bin/env bash
# Runs the tests, on the CPU. Installs what they need into .venv at the first start.
#
#   ./launch/test.sh [PYTEST ARGUMENTS…]
#   ./launch/test.sh tests/test_config.py -k validate
#   ./launch/test.sh --faults [PYTEST ARGUMENTS…]    # injects every fault of docs/reliability.md
#
# Paths are relative to the root of the repository.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1-} == --faults ]]; then
  set -- -m "slow or not slow" tests/faults tests/runtime "${@:2}"
fi

prepare test
cd "$root"
exec .venv/bin/python -m pytest -n logical --maxprocesses 4 "$@"
