#!/usr/bin/env bash
# Mounts a Google Cloud Storage bucket as a folder of this machine, by Cloud Storage FUSE, for runs and data to be in.
#
#   ./launch/mount.sh [--dry-run] BUCKET [FOLDER]
#   ./launch/mount.sh mine && ./launch/local.sh train configs/llama_1b.py --workdir /bucket/RUN
#
# FOLDER is /bucket if not given. On Debian and Ubuntu, gcsfuse is installed where it is missing, from the source that
# Google names. BUILD.md says which kind of bucket a run needs, and who must have access to it.
set -euo pipefail

fail() {
  echo "error: $(hostname): $1" >&2
  exit 2
}

dry=''
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
bucket=${1:-} folder=${2:-/bucket}
[[ $bucket =~ ^[a-z0-9][a-z0-9._-]*$ ]] || fail "which bucket? '$bucket' is not the name of one; for example: mine"
[[ $folder == /* ]] || fail "$folder: the folder begins with /"

run() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

get() {
  local source=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc system
  system=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  run sudo curl --fail --silent --show-error --location "$source/doc/apt-key.gpg" --output "$key" &&
    run sudo sh -c "echo 'deb [signed-by=$key] $source gcsfuse-$system main' >/etc/apt/sources.list.d/gcsfuse.list" &&
    run sudo apt-get update --quiet && run sudo apt-get install --quiet --yes gcsfuse
}

command -v gcsfuse >/dev/null || get || fail "gcsfuse could not be installed; see the messages above"
if mountpoint --quiet "$folder"; then # it may be another bucket, mounted with other options
  run fusermount -u "$folder" || fail "$folder is mounted already, and in use"
fi
if [[ ! -w $folder ]]; then
  run sudo install --directory --owner "$(id -un)" "$folder" || fail "$folder could not be made"
fi
# what is known of files is not kept, so that each host sees at once what another has written
run gcsfuse --implicit-dirs --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 "$bucket" "$folder" ||
  fail "the bucket $bucket could not be mounted: is there one, and may the service account of this machine use it?"
