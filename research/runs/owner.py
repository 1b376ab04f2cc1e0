"""One run, one owner: whoever trains in a run folder holds its lock, `owner.json`. Readers never need it.

The lock names host, process and a token, and its holder renews it every BEAT seconds. It needs nothing of a file system
but files that appear whole, so it works on a mounted bucket. Clocks of different hosts are never compared: whether an
owner on another host is alive is seen by watching for its next sign of life.
"""

import contextlib
import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research.errors import InputError
from research.runtime import files

FILE, FORMAT = "owner.json", 1
BEAT = 10.0  # seconds between signs of life
STALE = 180.0  # seconds of silence after which the owner on another host counts as dead (a bucket may show files late)


class Owner:
    """Holds the lock of a run folder, and gives a sign of life from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.lost = path, False
        self.entry: dict[str, Any] = {"format": FORMAT, "token": secrets.token_hex(8), **_place(), "beat": 0}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def check(self) -> None:
        """Raises InputError if another process has taken the run over, while this one gave no sign of life."""
        if self.lost:
            there = _read(self.path) or {}
            raise InputError(f"{self.path.parent} was taken over by {_name(there)}; this process ends without saving")

    def _beat(self) -> None:
        while not self.done.wait(BEAT):
            there = _read(self.path)
            if there is not None and there.get("token") != self.entry["token"]:
                self.lost = True
                return
            self.entry["beat"] += 1
            try:
                _write(self.path, self.entry)
            except OSError:  # on a full disk, the time of the file still can be set
                with contextlib.suppress(OSError):
                    os.utime(self.path)

    def release(self) -> None:
        self.done.set()
        self.thread.join()
        if (_read(self.path) or {}).get("token") == self.entry["token"]:
            self.path.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path, say: Callable[[str], None]) -> Iterator[Owner]:
    """Within it, this process owns the run folder, which exists. The lock of a dead process on this host is taken over
    at once, of one on another host after STALE seconds without a sign of life.

    Raises:
      InputError: if another process owns it; it says which.
    """
    owner = Owner(folder / FILE)
    _acquire(owner, say)
    files.clear_unfinished(folder)
    owner.thread.start()
    try:
        yield owner
    finally:
        owner.release()


def _acquire(owner: Owner, say: Callable[[str], None]) -> None:
    path = owner.path
    first, since = _signs(path), time.monotonic()
    waiting = False
    while True:
        with _one_at_a_time(path.parent):
            there = _read(path)
            alive = _alive(there)
            silent = _signs(path) == first and time.monotonic() - since > STALE
            if alive is False or (alive is None and silent):
                _write(path, owner.entry)
                return
        if alive or _signs(path) != first:
            raise InputError(
                f"{path.parent} is being trained by {_name(there or {})}; wait for it, stop it, or choose another "
                "--workdir"
            )
        if not waiting:
            say(f"{path.parent} belongs to {_name(there or {})}; waiting up to {STALE:.0f} s for a sign of life")
            waiting = True
        time.sleep(1.0)


def _alive(there: dict[str, Any] | None) -> bool | None:
    """Whether the owner is there; None: it cannot be seen from here."""
    if there is None:
        return False
    here = _place()
    if any(there.get(name) != here[name] for name in ("host", "boot", "namespace")):
        return None
    return _started(there["process"]) == there["started"]


def _place() -> dict[str, Any]:
    """What identifies this process, and from where it can be seen."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return {
        "host": platform.node(),
        "boot": boot.read_text(encoding="utf-8").strip() if boot.exists() else "",
        "namespace": os.readlink(namespace) if namespace.exists() else "",
        "process": os.getpid(),
        "started": _started(os.getpid()),
    }


def _started(process: int) -> str:
    """When a process began, so that a later one of the same number is not taken for it; "" if there is none."""
    stat = Path(f"/proc/{process}/stat")
    if stat.exists():
        state, *fields = stat.read_text(encoding="latin-1").rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
    if Path("/proc").exists():
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


def _name(there: dict[str, Any]) -> str:
    return f"process {there.get('process', '?')} on {there.get('host', 'an unknown host')}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        there = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        return {}
    if isinstance(there, dict) and there.get("format", FORMAT) != FORMAT:
        raise InputError(f"{path} has format {there['format']}; this version reads {FORMAT}")
    return there if isinstance(there, dict) else {}


def _signs(path: Path) -> tuple[bytes, int] | None:
    try:
        return path.read_bytes(), path.stat().st_mtime_ns
    except OSError:
        return None


def _write(path: Path, entry: dict[str, Any]) -> None:
    files.write_atomically(path, json.dumps(entry) + "\n")


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of processes on one host that look at the lock at once, one after the other; not every file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
