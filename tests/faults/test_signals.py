"""Signals at any moment of a command: the exit code, no traceback, and nothing lost."""

import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from research import config
from research.runs.trainer import train
from research.training import checkpoint
from tests.faults.shared import STEPS, experiment, measures, quiet

# trains, and stops at a moment until it is asked to end
WAIT = """
import sys, time
from pathlib import Path
from research.data import corpus
from research.runs import evaluating, prepared, stopping
from research.runs.trainer import train
from research import config
from rich.console import Console
from research.commands import command_line

def waiting(*_, **__):
    print("waiting", flush=True)
    sys.stdout.flush()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        sum(range(10_000_000)) if "busy" in sys.argv[1] else time.sleep(0.01)

place = {
    "preparing": (prepared.data, "open_corpus"),
    "busy-compiling": (prepared, "compiled_steps"),
    "evaluating": (evaluating.Evaluators, "finish"),
}[sys.argv[1]]
setattr(*place, waiting)
folder = Path(sys.argv[3])
command_line.run(lambda _: train(config.load(Path(sys.argv[2])), folder, Console(quiet=True)), [])
"""


def start(moment, small, tmp_path):
    config.save(small, tmp_path / "given.json")
    command = [sys.executable, "-c", WAIT, moment, str(tmp_path / "given.json"), str(tmp_path / "run")]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job of a script ignores it
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heard)
    assert process.stdout.readline() == "waiting\n"
    return process


@pytest.mark.parametrize(
    ("moment", "number"),
    [("preparing", signal.SIGINT), ("busy-compiling", signal.SIGTERM), ("evaluating", signal.SIGTERM)],
)
def test_a_signal_ends_a_run_in_order(tmp_path, moment, number):
    small = experiment(tmp_path)
    process = start(moment, small, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors == ""
    assert not (tmp_path / "run" / "owner.json").exists()
    if moment == "evaluating":
        assert checkpoint.steps(tmp_path / "run")[-1] == STEPS
        train(small, tmp_path / "run", quiet())
        train(small, tmp_path / "whole", quiet())
        assert measures(tmp_path / "run") == measures(tmp_path / "whole")


def test_a_second_interrupt_ends_at_once_whatever_the_process_does(tmp_path):
    code = (
        "import signal, sys, time\nfrom research.runs import stopping\n"
        "with stopping.exits(), stopping.notices():\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, preexec_fn=heard)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT
