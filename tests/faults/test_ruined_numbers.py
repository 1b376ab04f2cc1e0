"""Ruined numbers are neither kept nor saved; steps that would ruin them can be skipped."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.config import BadSteps, ranges
from research.runs import replay
from research.runs.guard import Diverged
from research.runs.records import FILE, read
from research.runs.run_folder import read_result
from research.runs.trainer import train
from research.training import checkpoint, guarded_step, step
from research.training.compiled_steps import compiled_steps
from tests.faults.shared import STEPS, experiment, quiet, said


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("text"))


def test_a_step_that_ruins_the_parameters_is_not_saved(small, tmp_path, monkeypatch):
    """Adam moves every parameter by the learning rate, so the state is finite, and its loss is not of this world. Such
    a rate is refused as it is; here it stands for whatever else may move parameters so far."""
    monkeypatch.setitem(ranges.RANGES, "optimizer.learning_rate", ranges.Range(0, 1e12))
    ruinous = replace(
        small, optimizer=replace(small.optimizer, learning_rate=1e10), checkpoint=config.Checkpoint(every=1)
    )
    with pytest.raises(Diverged, match=r"step \d: .*--replay \d shows the batch"):
        train(ruinous, tmp_path, quiet())
    for saved in checkpoint.steps(tmp_path):
        run = compiled_steps(config.load(tmp_path / "experiment.json"))
        state = checkpoint.restore(tmp_path, run.state, saved)
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(state.params))
        assert largest < 100


@pytest.fixture
def poisoned(monkeypatch):
    """Gradients that are not finite at the steps 6 and 7, and beyond all bounds at step 20."""
    original = step.train_step

    def train_step(*arguments):
        state = arguments[-2]
        new, metrics = original(*arguments)
        number = state.step + 1
        factor = jnp.where((number == 6) | (number == 7), jnp.nan, jnp.where(number == 20, 1e9, 1.0))
        params = jax.tree.map(lambda leaf: leaf * factor, new.params)
        return replace(new, params=params), metrics._replace(gradient_norm=metrics.gradient_norm * factor)

    monkeypatch.setattr(guarded_step, "train_step", train_step)
    monkeypatch.setattr(step, "train_step", train_step)


def longer(small, **policy):
    return replace(small, schedule=replace(small.schedule, steps=22), bad_steps=BadSteps(**policy))


def test_bad_steps_are_skipped_and_counted(small, tmp_path, poisoned):
    result = train(longer(small, policy="skip"), tmp_path, quiet())
    assert result["skipped"] == read_result(tmp_path)["skipped"] == 3
    skipped = {record["step"]: record["skipped"] for record in read(tmp_path / FILE) if "skipped" in record}
    assert skipped == {10: 2, 20: 1}
    assert np.isfinite(result["objectives"]["causal"]["loss"])


def test_a_skipped_step_leaves_parameters_and_optimizer_as_they_were(small, tmp_path, poisoned):
    run = replace(longer(small, policy="skip"), checkpoint=config.Checkpoint(every=1, keep_last=30))
    train(run, tmp_path, quiet())
    like = compiled_steps(config.load(tmp_path / "experiment.json")).state
    states = {number: jax.device_get(checkpoint.restore(tmp_path, like, number)) for number in (5, 7, 8, 19, 20)}
    for before, after in ((5, 7), (19, 20)):
        same = [states[number] for number in (before, after)]
        jax.tree.map(np.testing.assert_array_equal, same[0].params, same[1].params)
        jax.tree.map(np.testing.assert_array_equal, same[0].optimizer_state, same[1].optimizer_state)
        assert int(same[1].step) == after
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(states[n].params) for n in (7, 8)), strict=True))


def test_too_many_in_a_row_end_the_run(small, tmp_path, poisoned):
    said = r"2 steps in a row had to be skipped; the last one: step 7: .* norm nan .* every row .* has a finite loss"
    with pytest.raises(Diverged, match=said):
        train(longer(small, policy="skip", in_a_row=1), tmp_path, quiet())
    assert checkpoint.steps(tmp_path) == [4]


def test_a_run_that_stops_names_the_way_back_and_goes_on_by_skipping(small, tmp_path, poisoned):
    with pytest.raises(Diverged, match=r"Go back with --resume-from 4 --bad-steps\.policy skip"):
        train(longer(small), tmp_path, quiet())
    assert checkpoint.steps(tmp_path) == [4]
    assert train(longer(small, policy="skip"), tmp_path, quiet(), resume_from=4)["skipped"] == 3


def test_guarded_steps_are_those_of_the_plain_step(small, tmp_path):
    plain = train(small, tmp_path / "plain", quiet())
    guarded = train(replace(small, bad_steps=BadSteps(policy="skip")), tmp_path / "guarded", quiet())
    np.testing.assert_allclose(
        guarded["objectives"]["causal"]["loss"], plain["objectives"]["causal"]["loss"], rtol=1e-6
    )


def test_a_step_is_replayed_from_the_checkpoint_before_it(small, tmp_path):
    train(replace(small, logging=config.Logging(every=1, tensorboard=False)), tmp_path, quiet())
    files = sorted(path for path in tmp_path.rglob("*"))
    recorded = {record["step"]: record["loss"] for record in read(tmp_path / FILE) if record["kind"] == "train"}
    for number in (3, STEPS):
        console = quiet()
        metrics = replay.replay(small, tmp_path, number, console)
        assert float(metrics.loss) == pytest.approx(recorded[number], rel=1e-6)
        assert "text.txt #" in said(console) and f"step {number}: loss" in said(console)
    assert sorted(path for path in tmp_path.rglob("*")) == files
