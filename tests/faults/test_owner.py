"""One run has one owner."""

import json
import os
import subprocess
import sys
import time

import pytest

from research.errors import InputError
from research.runs import owner
from research.runs.owner import FILE, FORMAT, owned

HOLD = """
import sys, time
from pathlib import Path
from research.runs.owner import owned

with owned(Path(sys.argv[1]), print):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_second_owner_is_refused_and_a_dead_one_followed_at_once(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(InputError, match=f"is being trained by process {holder.pid} on "), owned(tmp_path, print):
        pass
    assert holder.poll() is None
    holder.kill()
    holder.wait()
    begin = time.monotonic()
    with owned(tmp_path, print):
        assert json.loads((tmp_path / FILE).read_text())["process"] == os.getpid()
        with pytest.raises(InputError, match="is being trained by"), owned(tmp_path, print):
            pass
    assert time.monotonic() - begin < 5 and not (tmp_path / FILE).exists()


def elsewhere(**changes):
    return {"format": FORMAT, "token": "x", "host": "far", "boot": "b", "namespace": "n", "process": 1, "started": "1",
            "beat": 0} | changes  # fmt: skip


def test_an_owner_on_another_host_that_is_silent_is_followed_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "STALE", 2.0)
    (tmp_path / FILE).write_text(json.dumps(elsewhere()))
    said = []
    with owned(tmp_path, said.append):
        assert "belongs to process 1 on far; waiting up to 2 s" in said[0]


def test_an_owner_on_another_host_that_gives_a_sign_of_life_is_respected(tmp_path, monkeypatch):
    path, slept = tmp_path / FILE, []

    def sleep(seconds):
        """Meanwhile the other owner renews its lock; its clock is of no interest."""
        slept.append(seconds)
        path.write_text(json.dumps(elsewhere(beat=1)))
        os.utime(path, (0, 0))

    path.write_text(json.dumps(elsewhere()))
    monkeypatch.setattr(owner.time, "sleep", sleep)
    with pytest.raises(InputError, match="is being trained by process 1 on far"), owned(tmp_path, lambda _: None):
        pass
    assert slept and json.loads(path.read_text())["token"] == "x"


def test_an_owner_that_was_replaced_notices_and_leaves_the_lock_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "BEAT", 0.01)
    with owned(tmp_path, print) as mine:
        (tmp_path / FILE).write_text(json.dumps(elsewhere()))
        while not mine.lost:
            time.sleep(0.01)
        with pytest.raises(InputError, match="was taken over by process 1 on far"):
            mine.check()
    assert json.loads((tmp_path / FILE).read_text())["token"] == "x"


def test_a_lock_of_another_format_is_refused_with_both_numbers(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(elsewhere(format=9)))
    with pytest.raises(InputError, match="has format 9; this version reads 1"), owned(tmp_path, print):
        pass
