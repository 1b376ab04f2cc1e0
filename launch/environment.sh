# shellcheck shell=bash
# Sourced by the scripts beside it: `root` is the repository, `prepare EXTRA…` makes its .venv or brings it up to date.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

prepare() {
  local python
  for python in python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      "$python" "$root/launch/install.py" "$@"
      return
    fi
  done
  echo "error: no Python 3.11, 3.12 or 3.13 with venv was found in PATH;" \
    "get one from your system (Debian, Ubuntu: apt-get install python3 python3-venv), from pyenv or from conda" >&2
  return 1
}
