# shellcheck shell=bash
# Sourced by the scripts beside it: `root` is the repository, `prepare EXTRA…` makes its .venv or brings it up to date,
# `keep_memory` makes a run on a CPU faster.

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

# On a CPU, XLA allocates one buffer for everything temporary anew at every step, and glibc takes one of that size from
# the system and gives it back each time. Here it keeps what is smaller than 256 MiB (larger buffers would leave holes of
# their size), and takes memory in large pages. Does nothing where the user has set glibc's tunables, or where there is
# an accelerator.
keep_memory() {
  local device malloc=glibc.malloc
  for device in /dev/nvidia[0-9]* /dev/accel[0-9]* /dev/vfio/[0-9]*; do
    [[ -e $device ]] && return
  done
  malloc=$malloc.hugetlb=1:$malloc.arena_max=1:$malloc.mmap_threshold=$((1 << 28)):$malloc.trim_threshold=$((1 << 30))
  export GLIBC_TUNABLES=${GLIBC_TUNABLES-$malloc}
}
