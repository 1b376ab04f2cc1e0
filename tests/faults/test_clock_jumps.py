"""The wall clock jumps while a run goes on, and between its starts: numbers and steps are the same, and no time that a
run is said to have taken is negative."""

import signal
import time
from contextlib import contextmanager

import pytest

from research.analysis import page
from research.runs import records, stopping
from research.runs.trainer import train
from tests.faults.shared import experiment, measures, quiet

DAY = 86_400.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    small = experiment(folder)
    train(small, folder / "run", quiet())
    return small, folder / "run"


@pytest.mark.parametrize("jump", [-30 * DAY, DAY / 144])
def test_a_clock_that_jumps_changes_no_number(whole, tmp_path, monkeypatch, jump):
    """A month back or ten minutes on, four times in each start, and between the two. (Orbax waits by the wall clock: it
    gives up a save in whose middle that jumps on by more than twenty minutes.)"""
    small, uninterrupted = whole
    real, moved = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + moved[0])

    @contextmanager
    def notices():
        def look(done):
            moved[0] += jump if done % 3 == 0 else 0.0
            return signal.SIGTERM if done == 7 else None

        yield look

    with monkeypatch.context() as patch:
        patch.setattr(stopping, "notices", notices)
        with pytest.raises(SystemExit):
            train(small, tmp_path / "run", quiet())
    moved[0] += jump
    train(small, tmp_path / "run", quiet())
    assert measures(tmp_path / "run") == measures(uninterrupted)
    for record in records.read(tmp_path / "run" / records.FILE):
        assert 0 <= record["goodput"] <= 1 and min(record["spent"].values()) >= 0
    assert page.write([tmp_path / "run"]).stat().st_size > 0
