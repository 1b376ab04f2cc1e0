"""A folder of derived data is made once, by one of those that want it; or not at all."""

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
