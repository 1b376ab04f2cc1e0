"""Files and folders that are written whole or not at all: a kill, a full disk or a power cut leaves the old one."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from research.errors import InputError

UNFINISHED = ".unfinished-"  # begins the name of what is being written
LONGEST_NAME = 255  # bytes
STORAGE = 74  # exit code: the disk is full, over quota or read-only (EX_IOERR of sysexits.h)
_SHORT = re.compile(r"\d+ requested and \d+ written")  # numpy's words, without a number
_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file beside `path`, flushes it to the disk and gives it the name; the folder must exist."""
    unfinished = path.with_name(f"{UNFINISHED}{path.name}-{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def expanded(path: str) -> Path:
    """A path in which ~ stands for a home directory. Raises InputError if there is none, or if a part of the path is
    longer than any file system takes it, at which the questions of `Path` fail."""
    if any(len(part.encode(errors="surrogatepass")) > LONGEST_NAME for part in Path(path).parts):
        raise InputError(f"{path[:60]}…: a name in it has more than {LONGEST_NAME} bytes, which no file can have")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no such home directory; write the whole path") from error


def sync_folder(folder: Path) -> None:
    """Flushes every file below a folder to the disk, before the folder is given its name."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def clear_unfinished(folder: Path) -> None:
    """Removes what killed processes were writing directly in a folder that nobody else writes in."""
    for path in folder.glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def storage_error(error: BaseException) -> str | None:
    """One line, if an error or what caused it is that nothing can be written; otherwise None. Orbax and TensorStore
    raise errors of their own, of which the text alone says so."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    for each in chain:
        if isinstance(each, OSError) and each.errno in _ERRORS:
            return f"{os.strerror(each.errno)}{f': {each.filename}' if each.filename else ''}"
        if isinstance(each, OSError) and _SHORT.fullmatch(str(each)):
            return f"{os.strerror(errno.ENOSPC)}: {each}"
        for number in _ERRORS:
            if os.strerror(number) in str(each):
                line = next(line for line in str(each).splitlines() if os.strerror(number) in line)
                return f"{os.strerror(number)}: {line}"[:300]  # a long path must not cut off the reason
    return None


def _sync(path: Path) -> None:
    """Where a file system cannot flush a folder, renaming is as lasting as it gets."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
