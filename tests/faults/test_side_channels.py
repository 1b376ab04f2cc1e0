"""TensorBoard and its like can fail, block and come back; training goes on meanwhile."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from research import config
from research.analysis import page
from research.commands import train
from research.config import Logging
from research.data import tokenizers
from research.errors import InputError
from research.runs import run_folder, side_channels, trainer
from research.runs.side_channels import Channel
from research.runtime import processes


class Sink:
    """Fails as often as it is told to."""

    written: list[int]

    def __init__(self, failures):
        self.written, self.failures = [], failures

    def write(self, step, numbers):
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.written.append(step)

    def close(self):
        pass


def test_a_channel_that_fails_is_named_once_and_misses_nothing(monkeypatch):
    monkeypatch.setattr(side_channels, "RETRY", 0.01)
    sink, said = Sink(failures=3), []
    channel = Channel("TensorBoard", lambda: sink, said.append)
    for step in range(5):
        channel.write(step, {})
    while len(sink.written) < 5:
        time.sleep(0.01)
    channel.close()
    assert sink.written == [0, 1, 2, 3, 4]
    assert len(said) == 2 and said[0].startswith("TensorBoard failed") and said[1] == "TensorBoard goes on"


def test_a_channel_that_blocks_delays_nobody(monkeypatch):
    monkeypatch.setattr(side_channels, "PATIENCE", 0.1)
    for_ever, said = threading.Event(), []
    channel = Channel("Weights & Biases", for_ever.wait, said.append)
    begin = time.monotonic()
    for step in range(side_channels.KEPT + 10):
        channel.write(step, {})
    channel.close()
    assert time.monotonic() - begin < 5
    assert said == [f"Weights & Biases: {side_channels.KEPT:,} records could not be written"]


def test_a_missing_package_or_login_is_told_before_anything_is_made(monkeypatch):
    with pytest.raises(InputError, match=r"logging\.wandb needs the package wandb"):
        side_channels.check(Logging(wandb="project"))
    monkeypatch.setattr(side_channels.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("HOME", "/nowhere")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="nobody is logged in"):
        side_channels.check(Logging(wandb="project"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    side_channels.check(Logging(wandb="project"))


def test_a_report_that_cannot_be_written_is_named_and_the_run_is_complete(monkeypatch, capsys):
    for place, name, done in ((trainer, "train", None), (processes, "initialize", None), (page, "write", 1)):
        monkeypatch.setattr(place, name, (lambda *_: 1 / 0) if done else (lambda *_: None))
    train.main(["configs/quickstart.py", "--workdir", "nowhere"])
    assert "the report could not be written: ZeroDivisionError" in capsys.readouterr().out


def test_weights_and_biases_get_the_resolved_experiment_and_an_identity_that_no_other_run_has(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: asked.append(settings)))
    for name in ("first/run", "second/run"):  # of one name, in two folders
        folder = tmp_path / name
        experiment = config.Experiment(model=config.resolve(config.Model(width=32, depth=1), 64, 32))
        run_folder.claim(folder, experiment, tokenizers.load("bytes"))
        for _ in range(2):  # resumed
            side_channels.WeightsAndBiases(folder, "project")
    first, again, second, _ = asked
    assert first == again and first["id"] != second["id"] and first["resume"] == "allow"
    assert first["config"]["model"]["vocabulary"] == 128 and first["project"] == "project" and first["name"] == "run"
