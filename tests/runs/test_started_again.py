"""A run that is started again with something changed: refused, or said with both values. Its result is of its end."""

import json
import os
from dataclasses import replace

import pytest

from research.config import Schedule
from research.errors import InputError
from research.runs import run_folder, stopping
from research.runs.replay import replay
from research.runs.trainer import train
from research.training import checkpoint
from tests.faults.shared import experiment, quiet, said

FOUR = Schedule(steps=4, warmup=2)


@pytest.fixture
def small(tmp_path):
    return replace(experiment(tmp_path), schedule=FOUR)


@pytest.fixture
def run(small, tmp_path):
    train(small, tmp_path / "run", quiet())
    return tmp_path / "run"


def changed(small, **changes):
    return replace(small, schedule=replace(FOUR, **changes))


def test_what_a_run_can_go_on_with_and_what_it_cannot(small, run, tmp_path, monkeypatch):
    before = (run / "result.json").read_bytes()
    fewer = r"schedule\.steps: 2 are fewer than the 4 that .*run has taken; choose 4 or more, or another --workdir"
    with pytest.raises(InputError, match=fewer):
        train(changed(small, steps=2), run, quiet())
    for change, values in (
        ({"warmup": 1}, r"schedule\.warmup: 2 there, 1 here"),
        ({"name": "linear"}, r"schedule\.name: 'cosine' there, 'linear' here"),
    ):
        with pytest.raises(InputError, match=values):
            train(changed(small, **change), run, quiet())
    assert (run / "result.json").read_bytes() == before

    monkeypatch.setattr(run_folder, "write_result", lambda *_: os.abort())  # it must not come to this
    monkeypatch.setattr(stopping, "notices", _stop_at(6))
    console = quiet()
    again = (
        r"4 there, 8 here would raise the learning rate of step 5 from 0\.001 to 0\.0055; give --resume-schedule True"
    )
    with pytest.raises(InputError, match=again):
        train(changed(small, steps=8), run, console)
    with pytest.raises(SystemExit):
        train(changed(small, steps=8), run, console, resume_schedule=True)
    assert "not as before: schedule.steps: 4 there, 8 here" in said(console)
    assert checkpoint.steps(run)[-1] == 6
    assert not (run / "result.json").exists()  # the one of step 4 is no longer the result of this run

    monkeypatch.undo()
    with pytest.raises(InputError, match=r"fewer than the 6 that .* choose 6 or more, --resume-from 4, or another"):
        train(changed(small, steps=5), run, quiet())
    train(changed(small, steps=5), run, quiet(), resume_from=4)
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"] == checkpoint.steps(run)[-1] == 5


def _stop_at(step):
    from contextlib import contextmanager
    from signal import SIGTERM

    @contextmanager
    def notices():
        yield lambda done: SIGTERM if done == step else None

    return notices


def test_other_data_under_the_same_name_is_refused_and_the_same_data_anew_is_not(small, run, tmp_path):
    text = tmp_path / "text.txt"
    content = text.read_bytes()
    text.write_bytes(content + b"one line more\n")
    wanted = r"run on other data.*\n  causal, training: [\d,]+ documents .* there, .* here"
    with pytest.raises(InputError, match=wanted):
        train(changed(small, steps=6), run, quiet(), resume_schedule=True)
    text.write_bytes(content.replace(b"square", b"sqaure", 1))  # of the same length
    with pytest.raises(InputError, match="run on other data"):
        train(changed(small, steps=6), run, quiet(), resume_schedule=True)
    with pytest.raises(InputError, match="run on other data"):
        replay(small, run, 2, quiet())
    text.write_bytes(content)  # written again: the content counts, and not when it was written
    os.utime(text, (0, 0))
    train(small, run, quiet())


def test_another_share_of_held_out_data_is_refused(small, run, tmp_path):
    with pytest.raises(InputError, match=r"data\.held_out: 0\.2 there, 0\.3 here"):
        train(replace(small, data=replace(small.data, held_out=0.3)), run, quiet())
