#!/usr/bin/env bash
# Runs a command on this machine, on its NVIDIA GPU if it has one. Installs everything into .venv at the first start.
#
#   ./launch/local.sh COMMAND [ARGUMENTS…]
#   ./launch/local.sh train configs/quickstart.py
#   ./launch/local.sh train --help
#
# Paths are relative to the folder that you are in.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# what research/commands/__init__.py lists, so that a wrong name is answered before anything is installed
commands=$(sed -n 's/^    "\([a-z_]*\)": "research\..*/\1/p' "$root/research/commands/__init__.py")
listed=${commands//$'\n'/, }
if [[ $# == 0 || $1 == -h || $1 == --help ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  printf '\nCommands: %s\n' "$listed"
  exit
elif [[ $'\n'$commands$'\n' != *$'\n'"$1"$'\n'* || $1 == *$'\n'* ]]; then
  echo "error: $1 is not one of the commands: $listed" >&2
  exit 2
fi

# shellcheck disable=SC2119 # no extras
prepare
keep_memory
exec "$root/.venv/bin/python" -P -m research "$@"
