"""A folder of derived data is made once, by one of those that want it; or not at all."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from research.data import cache


def test_one_makes_while_the_others_wait(tmp_path):
    begun, go, calls = Event(), Event(), []

    def make(folder):
        calls.append(folder)
        begun.set()
        assert go.wait(60)
        (folder / "whole").touch()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.made, tmp_path / "made", make)
        assert begun.wait(60)
        second = pool.submit(cache.made, tmp_path / "made", make)
        assert not (tmp_path / "made").exists()
        go.set()
        assert first.result() == second.result() == tmp_path / "made"
    assert len(calls) == 1 and (tmp_path / "made" / "whole").exists()


def test_after_a_failure_the_next_one_tries(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        cache.made(tmp_path / "made", fail)
    assert not list(tmp_path.glob("[!.]*"))
    made = cache.made(tmp_path / "made", lambda folder: (folder / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_nothing_else(tmp_path):
    """A process that is killed in the middle leaves its folder, and a lock that the system has released; another one
    is still at work."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom research.data import cache\n"
        "cache.made(Path(sys.argv[1]), lambda folder: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed")]).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".unfinished-killed-*")
    (tmp_path / ".unfinished-foreign-12345678").mkdir()  # of `building`, which has no lock
    begun, go = Event(), Event()

    def work(folder):
        begun.set()
        assert go.wait(60)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(cache.made, tmp_path / "working", work)
        assert begun.wait(60)
        cache.made(tmp_path / "other", lambda folder: None)
        assert not left.exists() and len(list(tmp_path.glob(".unfinished-*"))) == 2
        go.set()
        assert working.result().is_dir()
