"""Makes `.venv` at the root of the repository, or brings it up to date: `python3 launch/install.py [EXTRA…]`.

Versions are those of constraints.txt. The extras of COMMON are always added, and `cuda` where an NVIDIA driver
is found. Where all of this is
installed already, nothing happens. Needs Python 3.11 to 3.13 and no packages.
"""

import fcntl
import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT, CONSTRAINTS = ROOT / "pyproject.toml", ROOT / "constraints.txt"
PYTHON = ROOT / ".venv" / "bin" / "python"
INSTALLED = ROOT / ".venv" / "installed.json"  # what is there: a key, and the extras
UNFINISHED = ROOT / ".venv" / "unfinished"  # exists while packages are being written
COMMON = {"gguf", "metrics", "parquet", "tfds"}  # extras that any command may need
CUDA_DRIVER = 580  # the first driver for CUDA 13


def main(extras: list[str]) -> None:
    wanted = {*COMMON, *extras, "cuda"} if gpu() else {*COMMON, *extras}
    if missing(wanted):
        with open(ROOT / ".venv.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another terminal or node may be installing into the same folder
            if missing(wanted):
                install(wanted)


def gpu() -> bool:
    """Whether an NVIDIA driver answers that is new enough."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True)
    except OSError:
        return False
    version = answer.stdout.split(".")[0].strip()
    if answer.returncode or not version.isdigit():
        return False
    if int(version) < CUDA_DRIVER:
        say(f"NVIDIA driver {version} is older than {CUDA_DRIVER}, which CUDA 13 needs: the CPU will be used")
        return False
    return True


def missing(wanted: set[str]) -> bool:
    state = installed()
    return not PYTHON.exists() or UNFINISHED.exists() or state["key"] != key() or not wanted <= set(state["extras"])


def installed() -> dict:
    return json.loads(INSTALLED.read_text(encoding="utf-8")) if INSTALLED.exists() else {"key": None, "extras": []}


def key() -> str:
    """Changes with everything that an installation depends on; the root is in it because a copied or moved folder
    would still import from the old one."""
    parts = [str(ROOT).encode(), PROJECT.read_bytes(), CONSTRAINTS.read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def install(wanted: set[str]) -> None:
    """All extras that were ever asked for stay, at the same versions. What was interrupted is begun anew."""
    extras = sorted(wanted | set(installed()["extras"]))
    if UNFINISHED.exists() or not PYTHON.exists() or run([PYTHON, "-m", "pip", "--version"], stdout=subprocess.DEVNULL):
        say("making .venv")
        base = getattr(sys, "_base_executable", sys.executable)  # not the environment that is about to be cleared
        if run([base, "-m", "venv", "--clear", ROOT / ".venv"]):
            sys.exit("error: .venv could not be made; the messages above say why")
    say(f"installing into .venv{' with ' + ', '.join(extras) if extras else ''}: a few minutes, once")
    UNFINISHED.touch()
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", *quiet]
    if run([*pip, "--constraint", CONSTRAINTS, "--editable", target], stdout=sys.stderr):
        sys.exit("error: the installation failed; the messages above say why. The next start begins anew")
    INSTALLED.write_text(json.dumps({"key": key(), "extras": extras}) + "\n", encoding="utf-8")
    UNFINISHED.unlink()


def run(command: list, **options) -> int:
    return subprocess.run([str(part) for part in command], **options).returncode


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
