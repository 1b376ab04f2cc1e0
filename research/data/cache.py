"""Folders of derived data that are either whole or absent."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from research.errors import InputError
from research.runtime.files import UNFINISHED

log = logging.getLogger(__name__)


def key(format: int, *parts: object) -> str:
    """A name for what follows from `parts` (JSON types), stored in a numbered format. The number is raised by hand
    whenever the same parts would give other bytes."""
    return hashlib.sha256(json.dumps([format, parts]).encode()).hexdigest()[:24]


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder as it is there, or else as `make` fills it; then it appears at the end, whole. Of all processes that
    want it, on this machine or on others that share its disk, one makes it and the others wait; if it fails, the next
    one tries.

    Raises:
      InputError: if nothing can be written there.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder.parent)
        lock = FileLock(folder.parent / f".lock-{folder.name}", poll_interval=0.5)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for another process, which prepares %s", folder)
            held = lock.acquire()
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"the cache {folder.parent} cannot be written: {error.strerror}; choose another folder with --data.cache "
            "or the environment's RESEARCH_CACHE"
        ) from error
    with held:
        if not folder.is_dir():
            with building(folder) as unfinished:
                make(unfinished)
    return folder


def clear_unfinished(parent: Path) -> None:
    """Removes what killed processes were making with `made`: its lock is free."""
    for unfinished in parent.glob(f"{UNFINISHED}*"):
        lock = parent / f".lock-{unfinished.name.removeprefix(UNFINISHED).rpartition('-')[0]}"
        if lock.exists():
            with suppress(Timeout), FileLock(lock).acquire(timeout=0):
                shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes `folder` at the end, whole; after an exception it is removed. If
    another process was faster, its result stays. A killed process leaves `.unfinished-…`, which nothing reads and the
    next `made` removes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent))
    unfinished.chmod(0o755)
    try:
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
