"""`python -m tests.faults.killed CONFIG RUN DIE…`: trains in a run folder again and again, and is killed every time.

Each DIE is a number of operations on files (a file opened to be written, flushed, renamed or removed, a folder made or
removed) of a start, at which SIGKILL comes before it is done; or `S.SSs`, seconds after which it comes. Prints one line
a start: how it ended, and what it was about to do. JAX is imported once, and every start is a fork of that process.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from research import config
from research.runs.trainer import train

WRITES = os.O_WRONLY | os.O_RDWR
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.utime")


def main(config_file: Path, folder: Path, deaths: list[str]) -> None:
    for death in deaths:
        told, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            start(config_file, folder, death, into)
        os.close(into)
        _, status = os.waitpid(child, 0)
        with os.fdopen(told) as file:
            print(f"{os.waitstatus_to_exitcode(status)} {file.read()}", flush=True)


def start(config_file: Path, folder: Path, death: str, report: int) -> None:
    """Trains, and ends this process."""
    if death.endswith("s"):
        threading.Thread(target=later, args=(float(death[:-1]), report), daemon=True).start()
    else:
        count_operations(int(death), folder, report)
    try:
        train(config.load(config_file), folder, Console(quiet=True))
    except BaseException as error:
        tell(report, f"{type(error).__name__}: {error}".replace("\n", " "))
        os._exit(1)
    os._exit(0)


def tell(report: int, text: str) -> None:
    os.write(report, text.encode())


def later(seconds: float, report: int) -> None:
    time.sleep(seconds)
    tell(report, "a moment")
    os.kill(os.getpid(), signal.SIGKILL)


def count_operations(last: int, folder: Path, report: int) -> None:
    """Kills this process before its `last`-th operation on a file of the run folder, whichever thread does it."""
    left, lock, below = [last], threading.Lock(), str(folder)

    def note(operation: str, path: object) -> None:
        with lock:
            left[0] -= 1
            if left[0] == 0:
                tell(report, f"{operation} {Path(os.fsdecode(path)).name if isinstance(path, str | bytes) else ''}")
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in OPERATIONS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
        if writes and below in str(arguments[0]):
            note(event, str(arguments[0]))

    flush = os.fsync

    def fsync(handle: int) -> None:
        note("fsync", "")
        flush(handle)

    os.fsync = fsync
    sys.addaudithook(hook)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
