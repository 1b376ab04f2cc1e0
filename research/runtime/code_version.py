"""Which commit of this code runs: as a file says that was written when an image or an archive was made, or as git does.

Containers and copies on other machines have neither `.git` nor, often, git; there the commit is unknown, unless
`launch/Dockerfile` or `launch/tpu_pod.sh` has written it to FILE.
"""

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
FILE = PACKAGE / "commit.txt"  # never in git


def commit() -> str | None:
    """The commit's hash, followed by "-dirty" where files differ from it; None: it is not known."""
    try:
        return FILE.read_text(encoding="utf-8").strip() or None
    except OSError:
        pass
    described = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        found = subprocess.run(described, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return None
    return found.stdout.strip() or None
