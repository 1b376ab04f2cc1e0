"""Several processes are one run: the same losses, one set of files, one end; and any number of them goes on."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from research import config
from research.commands import evaluate
from research.runs import run_folder
from research.runs.trainer import train
from research.runtime import files, processes
from research.training import checkpoint
from tests.runtime.several import (
    end,
    endless,
    launch,
    losses,
    name,
    start,
    until,
    wait_for_a_checkpoint_after,
)

LOST = processes.LOST


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return endless(tmp_path_factory.mktemp("text"))


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for step, values in ours.items():
        np.testing.assert_allclose(list(values.values()), list(theirs[step].values()), rtol=1e-3, err_msg=str(step))


def alone(experiment, folder, steps):
    return train(until(experiment, steps), folder, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def interrupted(experiment, tmp_path_factory):
    """A run of two processes, of which the second was asked to stop; then of two again, of which one was killed."""
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    processes, said = start(experiment, folder, 2, "--mesh.fsdp", "2")
    wait_for_a_checkpoint_after(0, folder, processes)
    processes[1].send_signal(signal.SIGTERM)
    stopped = end(processes, said)
    first = checkpoint.steps(folder)[-1]
    processes, said = start(experiment, folder, 2, "--mesh.fsdp", "4")
    wait_for_a_checkpoint_after(first, folder, processes)
    processes[1].kill()
    begin = time.monotonic()
    killed = end(processes, said)
    return folder, first, stopped, (*killed, time.monotonic() - begin, name(1, processes))


def test_a_signal_to_one_process_saves_and_ends_all(interrupted):
    _, first, (codes, said), _ = interrupted
    assert codes == [128 + signal.SIGTERM] * 2, said
    assert f"SIGTERM: saved at step {first}; rerun the same command to resume" in said[0]


def test_when_one_process_is_killed_the_others_end_with_a_message(interrupted):
    _, _, _, (codes, said, seconds, culprit) = interrupted
    assert codes[1] == -signal.SIGKILL and seconds < 60
    assert codes[0] == LOST and f"error: {culprit} gave no sign of life" in said[0], said[0]


@pytest.mark.slow
def test_the_error_that_ended_one_process_is_named_by_the_others(experiment, tmp_path):
    """A full disk, as process 1 alone sees it."""
    code = (
        "import os, sys\nfrom research.training import checkpoint\nfrom research.__main__ import main\n"
        f"if os.environ['{processes.INDEX}'] == '1':\n"
        "    def full(*_): raise OSError(28, 'No space left on device')\n"
        "    checkpoint.save = full\n"
        "main()\n"
    )
    folder, path = tmp_path / "run", tmp_path / "given.json"
    config.save(experiment, path)
    codes, said = end(*launch(folder, 2, "train", str(path), "--workdir", str(folder), program=("-c", code)))
    assert codes == [LOST, files.STORAGE], said
    assert re.search(r"error: process 1 on .* has ended: OSError: .*No space left on device", said[0]), said[0]


@pytest.mark.slow
def test_any_number_of_processes_goes_on_and_the_losses_are_those_of_one(experiment, interrupted, tmp_path):
    folder, *_ = interrupted
    last = checkpoint.steps(folder)[-1] + 2
    by_one = alone(experiment, tmp_path / "one", last - 2)
    alone(experiment, folder, last)
    processes, said = start(until(experiment, last), tmp_path / "one", 2, "--mesh.tensor", "2", "--mesh.context", "2")
    codes, said = end(processes, said)
    assert codes == [0, 0], said
    by_two = run_folder.read_result(tmp_path / "one")
    assert_same(losses(folder), losses(tmp_path / "one"))
    for kind in ("train", "held_out"):
        ours, theirs = losses(folder, kind), losses(tmp_path / "one", kind)
        assert_same({last: ours[last]}, {last: theirs[last]})
    assert set(by_two) == set(by_one) and by_two["steps"] == last
    probed = [result["probes"]["continuations"][0]["probabilities"] for result in (by_one, by_two)]
    np.testing.assert_allclose(probed[1][0], probed[0][-1], rtol=1e-3)
    assert len(list(Path(experiment.data.cache).glob("store-*"))) == 1
    assert "documents" in said[0] and "documents" not in said[1] and "loss" not in said[1]  # one of them reports


@pytest.mark.slow
def test_several_processes_evaluate_as_one_does(run, tmp_path, capsys):
    """Options of questions, which share their beginnings, and texts that are written; some answers are kept already."""
    (tmp_path / "sums.jsonl").write_text(
        '{"question": "1 and", "answer": " 1"}\n{"question": "2 and", "answer": " 4"}\n'
    )
    (tmp_path / "sums.yaml").write_text(WRITTEN)
    asked = [f"{run}@2", str(run), "--prompt-format", "causal", "--data", str(tmp_path)]
    asked += ["--tasks", "copying", str(tmp_path / "sums.yaml")]
    one, two = tmp_path / "one", tmp_path / "two"
    evaluate.main([*asked, "--limit", "1", "--out", str(one)])
    shutil.copytree(one, two)
    capsys.readouterr()
    evaluate.main([*asked, "--limit", "4", "--out", str(one)])
    codes, said = end(*launch(two, 2, "evaluate", *asked, "--limit", "4", "--out", str(two)))
    assert codes == [0, 0], said
    shown = [[line for line in text.splitlines() if line and "[Gloo]" not in line] for text in said]
    assert shown[0] == [line for line in capsys.readouterr().out.replace(str(one), str(two)).splitlines() if line]
    assert shown[1] == []
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.json*")) for folder in (one, two)]
    assert files[0] == files[1]
    for file in files[0]:
        np.testing.assert_allclose(numbers(two / file), numbers(one / file), rtol=1e-4, err_msg=str(file))


WRITTEN = """
name: sums
about: numbers and their squares
licence: generated here
kind: generate
sources: [{file: sums.jsonl}]
context: "{{ question }}"
continuation: "{{ answer }}"
references: "[answer]"
tokens: 4
metrics: [exact_match]
"""


def numbers(file):
    """All log-probabilities of rows, answers or results, and how many lines there are."""
    lines = file.read_text().splitlines()
    return [len(lines), *map(float, re.findall(r'"log_probabilit\w+": \[?(-?[\d.e-]+)', file.read_text()))]


def test_half_of_what_several_processes_need_is_refused(experiment, tmp_path):
    config.save(experiment, tmp_path / "experiment.json")
    command = [sys.executable, "-P", "-m", "research", "train", str(tmp_path / "experiment.json")]
    environment = os.environ | {processes.ADDRESS: "127.0.0.1:1", processes.COUNT: "2"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"({processes.ADDRESS}=127.0.0.1:1, {processes.COUNT}=2): The process id" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    ["--mesh.tensor 4 --mesh.context 2", "--mesh.slices 4 --mesh.fsdp 2", "--mesh.fsdp 4 --mesh.tensor 2"],
    ids=["same-rows", "slices", "fsdp-tensor"],
)
def test_four_processes_are_one_run_on_any_mesh(experiment, tmp_path, mesh):
    """Where only heads and places are split, all processes hold the same rows; a process can be a slice."""
    by_one = alone(experiment, tmp_path / "one", 4)
    codes, said = end(*start(until(experiment, 4, samples=True), tmp_path / "four", 4, *mesh.split()))
    assert codes == [0] * 4, said
    assert_same(losses(tmp_path / "four"), losses(tmp_path / "one"))
    assert_same(losses(tmp_path / "four", "held_out"), losses(tmp_path / "one", "held_out"))
    by_four = json.loads((tmp_path / "four" / "result.json").read_text())
    assert by_four["tokens"] == by_one["tokens"]
    compiled = tmp_path / "compiled"
    codes, said = end(*start(until(experiment, 6), tmp_path / "four", 2, "--compilation-cache-dir", str(compiled)))
    assert any("jit_run" in path.name for path in compiled.iterdir())
    assert codes == [0, 0] and checkpoint.steps(tmp_path / "four")[-1] == 6, said
