"""A run that is stopped, killed or disturbed in its folder, and started again."""

import json
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest

from research import config
from research.errors import InputError
from research.runs import evaluating, records, stopping
from research.runs.trainer import train
from research.training import checkpoint
from research.training.compiled_steps import compiled_steps
from tests.faults.shared import STEPS, experiment, measures, quiet, said


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """An uninterrupted run; do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(small, folder, quiet())
    return folder


def stopped_at(monkeypatch, step):
    """As if SIGTERM arrived during that step."""

    @contextmanager
    def notices():
        yield lambda done: signal.SIGTERM if done == step else None

    monkeypatch.setattr(stopping, "notices", notices)


def params(folder, step):
    like = compiled_steps(config.load(folder / "experiment.json")).state.params
    return jax.device_get(checkpoint.restore_params(folder, like, step))


def test_the_records_of_a_resumed_run_are_those_of_an_uninterrupted_one(small, whole, tmp_path, monkeypatch):
    """Stopped between two lines of the log, at an evaluation, and in the last evaluation."""
    for step in (3, 6, 11):
        stopped_at(monkeypatch, step)
        with pytest.raises(SystemExit) as ended:
            train(small, tmp_path, quiet())
        assert ended.value.code == 128 + signal.SIGTERM and checkpoint.steps(tmp_path)[-1] == step
    monkeypatch.undo()
    original = evaluating.Evaluators.finish

    def interrupted(self, *arguments):
        original(self, *arguments)
        raise SystemExit(143)

    monkeypatch.setattr(evaluating.Evaluators, "finish", interrupted)
    with pytest.raises(SystemExit):
        train(small, tmp_path, quiet())
    monkeypatch.undo()
    train(small, tmp_path, quiet())
    assert measures(tmp_path) == measures(whole)
    jax.tree.map(np.testing.assert_array_equal, params(tmp_path, STEPS), params(whole, STEPS))


def test_a_finished_run_that_is_started_again_has_the_same_records(small, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    train(small, tmp_path / "run", quiet())
    assert measures(tmp_path / "run") == measures(whole)


def test_a_damaged_record_is_set_aside_and_the_rest_is_kept(small, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / records.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"loss", b"\xffoss") + b"".join(lines[2:]))
    console = quiet()
    train(small, tmp_path / "run", console)
    assert "damaged lines are moved to metrics.damaged.jsonl: 2" in said(console)
    assert measures(tmp_path / "run") == measures(whole)[1:]


def test_the_checkpoint_of_another_run_is_refused(small, whole, tmp_path):
    other = tmp_path / "other"
    train(replace(small, seed=1, schedule=replace(small.schedule, steps=4)), other, quiet())
    mixed = tmp_path / "mixed"
    shutil.copytree(whole, mixed, ignore=shutil.ignore_patterns(str(STEPS)))
    shutil.rmtree(mixed / "checkpoints" / "8")
    shutil.copytree(other / "checkpoints" / "4", mixed / "checkpoints" / "8")
    with pytest.raises(InputError, match=r"checkpoint of step 4 of another run .*delete .*/8 to resume from step 4"):
        train(small, mixed, quiet())


@pytest.mark.parametrize("part", ["params", "training", "manifest", "params/checksums.0.json", "manifest/metadata"])
def test_a_checkpoint_with_a_missing_part_is_refused_with_advice(small, whole, tmp_path, part):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    path = copy / "checkpoints" / str(STEPS) / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=rf"step {STEPS} is damaged: .*; delete .* to resume from step 8"):
        train(small, copy, quiet())


def test_going_back_to_a_step_drops_the_later_ones(small, whole, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    with pytest.raises(InputError, match=r"--resume-from 5: .* has checkpoints of \[4, 8, 12\]"):
        train(small, copy, quiet(), resume_from=5)
    before = json.loads((copy / "checkpoints" / "8" / "manifest" / "metadata").read_text())
    (copy / "checkpoints" / "8" / "mark").touch()
    train(small, copy, quiet(), resume_from=4)
    assert not (copy / "checkpoints" / "8" / "mark").exists()  # it was written anew
    assert json.loads((copy / "checkpoints" / "8" / "manifest" / "metadata").read_text()) == before
    assert measures(copy) == measures(whole)
