"""A process that is killed while it writes a file leaves the old one or the new one."""

import subprocess
import sys

import pytest

from research.runtime import files

WRITE = """
import os, signal, sys
from pathlib import Path
from research.runtime import files

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

moment, path = sys.argv[1], Path(sys.argv[2])
if moment == "flush":
    os.fsync = kill
elif moment == "rename":
    Path.replace = kill
elif moment == "after":
    files._sync = kill
files.write_atomically(path, "new" * 100_000)
"""


@pytest.mark.parametrize(("moment", "left"), [("flush", "old"), ("rename", "old"), ("after", "new" * 100_000)])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path, moment, left):
    path = tmp_path / "experiment.json"
    path.write_text("old")
    ended = subprocess.run([sys.executable, "-c", WRITE, moment, str(path)])
    assert ended.returncode == -9
    assert path.read_text() == left
    files.clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_nothing_beside_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "experiment.json"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_atomically(path, "new")
    assert files.storage_error(error.value) == "No space left on device"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_known_by_what_other_libraries_say_of_it():
    try:
        try:
            raise ValueError("RESOURCE_EXHAUSTED: writing x: No space left on device [source …]")
        except ValueError as cause:
            raise RuntimeError("saving failed") from cause
    except RuntimeError as error:
        assert "No space left on device" in (files.storage_error(error) or "")
    assert files.storage_error(ValueError("a shape is wrong")) is None
