"""A run is saved by time as well as by step, on the disk of its host more often, and says from what age it resumes."""

import random
from dataclasses import replace

import pytest

from research.config import Checkpoint, Schedule
from research.runs import intervals, stopping
from research.runs.intervals import Interval
from research.runs.trainer import train
from research.training import checkpoint
from tests.faults.shared import experiment, measures, quiet, said


@pytest.mark.parametrize("several", [False, True])
def test_it_is_due_within_a_step_of_its_time_whatever_the_pace(monkeypatch, several):
    monkeypatch.setattr(intervals.processes, "is_distributed", lambda: several)
    asked = []
    monkeypatch.setattr(intervals, "_agreed", lambda seconds: asked.append(seconds) or seconds)
    chance, now = random.Random(0), [0.0]
    interval = Interval(600, 0, lambda: now[0])
    now[0] += 90  # compiles
    step, slowest = 0, 0.0
    while not interval.due(step):
        pace = 3 * chance.random() if step < 100 else 1 + chance.random()
        now[0], step, slowest = now[0] + pace, step + 1, max(slowest, pace)
    assert abs(now[0] - 600) <= 2 * slowest
    assert not several or len(asked) < 40  # each is a broadcast
    interval.reset(step)
    assert not interval.due(step + 1)
    assert not Interval(0, 0, lambda: 1e9).due(5)


def test_a_run_is_saved_by_time(tmp_path, monkeypatch):
    small = experiment(tmp_path, checkpoint=Checkpoint(every=1000, minutes=1e-9, keep_last=20))
    console = quiet()
    train(replace(small, schedule=Schedule(steps=4, warmup=2)), tmp_path / "run", console)
    assert checkpoint.steps(tmp_path / "run") == [1, 2, 3, 4]


def test_a_killed_run_resumes_from_the_disk_of_its_host_and_is_the_uninterrupted_one(tmp_path, monkeypatch):
    small = experiment(tmp_path)
    train(small, tmp_path / "whole", quiet())
    twice = replace(
        small, checkpoint=Checkpoint(every=1000, minutes=0, local=str(tmp_path / "disk"), local_minutes=1e-9)
    )

    def killed(done):
        if done == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopping, "notices", _calls(killed))
    with pytest.raises(KeyboardInterrupt):
        train(twice, tmp_path / "run", quiet())
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "run") == []
    console = quiet()
    train(twice, tmp_path / "run", console)
    assert "from step 8, saved 0 minutes ago on this host's disk" in said(console)
    assert measures(tmp_path / "run") == measures(tmp_path / "whole")


def _calls(function):
    from contextlib import contextmanager

    @contextmanager
    def notices():
        yield function

    return notices
