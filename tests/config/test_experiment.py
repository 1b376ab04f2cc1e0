"""The experiment tree: what a file may hold, what is refused, and that JSON keeps all of it."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from research import config
from research.commands import command_line
from research.config import (
    Attention,
    Causal,
    Data,
    Evaluation,
    Experiment,
    Masked,
    Mesh,
    Model,
    Norm,
    Optimizer,
    Positions,
    Prefix,
    RopeScaling,
    Schedule,
    SpanCorruption,
    Step,
    TextToText,
    config_file,
    replace_fields,
)
from research.config.validation import validate
from research.errors import InputError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
EVERYTHING = Experiment(  # every objective, and a value of its own for every field that may be None
    model=Model(initial_scale=None, positions=Positions(scaling=RopeScaling(kind="linear"))),
    objectives=(
        Causal(source="text:a", mode="[C]"),
        Masked(whole_words=True),
        Prefix(),
        SpanCorruption(mean_span=8.0),
        TextToText(prefix="translate: "),
    ),
    data=Data(held_out="text:b", source_length=64, cache="/tmp"),
    mesh=Mesh(rules=(("batch", ("data",)), ("mlp", ()))),
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_says_how_to_run_it(path, tmp_path):
    experiment = config_file.read(path)
    validate(experiment)
    config.save(experiment, tmp_path / "experiment.json", versions={"jax": "1"})
    assert config.load(tmp_path / "experiment.json") == experiment
    assert re.search(rf"^\./launch/\S+ (.* )?train configs/{path.name}", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("experiment", [Experiment(), EVERYTHING], ids=["defaults", "everything"])
def test_json_keeps_everything(experiment):
    assert config.from_dict(json.loads(json.dumps(config.to_dict(experiment)))) == experiment


def changed(path: str, value):
    """The JSON of an experiment with one value exchanged."""
    tree = json.loads(json.dumps(config.to_dict(EVERYTHING)))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = tree
    for parent in parents:
        node = node[parent]
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.width", 1.5, "1.5 is not int @ experiment.model.width"),
        ("model.mlp.gated", "False", "'False' is not bool @ experiment.model.mlp.gated"),
        ("model.norm.kind", "batchnorm", "experiment.model.norm.kind"),
        ("data.held_out", [0.1], "experiment.data.held_out"),
        ("optimizer.lr", 3e-4, "(lr) @ experiment.optimizer"),
        ("objectives.0.objective", "Telepathy", "'Telepathy' is missing or unknown @ experiment.objectives[0]"),
        ("objectives.1.mask_rate", "half", "experiment.objectives[1].mask_rate"),
        ("mesh.rules", [["batch", 1]], "experiment.mesh.rules"),
        ("model", 3, "experiment.model"),
        ("objectives", 5, "experiment.objectives"),
    ],
)
def test_json_with_a_wrong_field_names_it(path, value, message):
    with pytest.raises(InputError) as error:
        config.from_dict(changed(path, value))
    assert message in str(error.value)


def test_json_may_lack_fields():
    assert config.from_dict({"seed": 3}) == Experiment(seed=3)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"experiment": {"sead": 1}}', b"\xff"])
def test_a_file_that_is_no_saved_experiment_is_named(content, tmp_path):
    path = tmp_path / "experiment.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=str(path)):
        config.load(path)


WRONG = {
    "model.width: '256' is not int": Experiment(model=Model(width="256")),
    "objectives: Causal(": Experiment(objectives=Causal()),
    "objectives.0.rate: 'half' is not float": Experiment(objectives=(Causal(rate="half"),)),
    "model.norm.kind: 'batchnorm' is not Literal['layernorm', 'rmsnorm']": Experiment(
        model=Model(norm=Norm(kind="batchnorm"))
    ),
    "model.attention.heads: 0 is not from 1 to 65,536": Experiment(model=Model(attention=Attention(heads=0))),
    "model.attention.heads: 5 heads do not divide width 256": Experiment(model=Model(attention=Attention(heads=5))),
    "model.attention.kv_heads: 3 does not divide model.attention.heads = 4": Experiment(
        model=Model(attention=Attention(kv_heads=3))
    ),
    "model.attention.head_width: 5 is odd": Experiment(model=Model(width=20)),
    "model.dropout: 1.0 is not from 0 below 1": Experiment(model=Model(dropout=1.0)),
    "model.attention.dropout: 0.1 needs": Experiment(
        model=Model(attention=Attention(dropout=0.1, implementation="blocks"))
    ),
    "model.attention.dropout: 1.0 is not from 0 below 1": Experiment(model=Model(attention=Attention(dropout=1.0))),
    "data.length: 128 is longer than the model's 98": Experiment(
        model=Model(positions=Positions(kind="learned", max_length=100, offset=2))
    ),
    "model.norm.bias: rmsnorm has no bias": Experiment(model=Model(norm=Norm(bias=True))),
    "model.attention.implementation: cudnn": Experiment(model=Model(attention=Attention(implementation="cudnn"))),
    "objectives: at least one": Experiment(objectives=()),
    "objectives: names must differ": Experiment(objectives=(Causal(), Causal())),
    "objectives: ['causal'] have no source side": Experiment(model=Model(encoder_depth=2)),
    "objectives.0.rate: 0.0 is not above 0 to 1e+06": Experiment(objectives=(Causal(rate=0.0),)),
    "objectives.0.mask_rate: 1.0 is not above 0 below 1": Experiment(objectives=(Masked(mask_rate=1.0),)),
    "objectives.0.noise_rate: 0.0 is not above 0 below 1": Experiment(objectives=(SpanCorruption(noise_rate=0.0),)),
    "objectives.0.mean_span: 0.5 is not from 1 to 10,000": Experiment(objectives=(SpanCorruption(mean_span=0.5),)),
    "data.held_out: 1.0 is not above 0 to 0.99": Experiment(data=Data(held_out=1.0)),
    "data.held_out: '0x10' is neither a number above 0 to 0.99 nor": Experiment(data=Data(held_out="0x10")),
    "data.held_out: 'True' is neither a number": Experiment(data=Data(held_out="True")),
    "data.held_out: is empty": Experiment(data=Data(held_out=" ")),
    "data.cache: is empty": Experiment(data=Data(cache="")),
    "evaluation.tasks.1: is empty": Experiment(evaluation=Evaluation(tasks=("copying", ""))),
    "objectives.0.source: is empty": Experiment(objectives=(Causal(source=" "),)),
    "data.length: 1 is not from 2 to": Experiment(data=Data(length=1)),
    "step.accumulation: 3 does not divide data.batch = 16": Experiment(step=Step(accumulation=3)),
    "optimizer.learning_rate: 0.0 is not above 0 to 10": Experiment(optimizer=Optimizer(learning_rate=0.0)),
    "optimizer.b2: 1.0 is not from 0 below 1": Experiment(optimizer=Optimizer(b2=1.0)),
    "schedule.warmup: 11 is longer than schedule.steps = 10": Experiment(schedule=Schedule(steps=10, warmup=11)),
    "mesh.fsdp: 0 is not -1, or from 1 to": Experiment(mesh=Mesh(fsdp=0)),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_experiment_that_cannot_run_is_refused_with_the_field_and_its_value(message):
    with pytest.raises(InputError) as error:
        validate(WRONG[message])
    assert message in str(error.value)


def test_all_wrong_fields_are_named_at_once():
    with pytest.raises(InputError) as error:
        validate(Experiment(model=Model(attention=Attention(heads=5)), schedule=Schedule(steps=10)))
    assert "model.attention.heads" in str(error.value) and "schedule.warmup" in str(error.value)


def test_what_follows_from_other_fields_is_filled_and_what_was_given_is_kept():
    model = config.resolve(Model(width=96, attention=Attention(heads=6)), vocabulary=1000, length=64)
    assert (model.vocabulary, model.attention.kv_heads, model.attention.head_width, model.mlp.width) == (
        1024,
        6,
        16,
        384,
    )
    assert (model.positions.max_length, model.attention.scale) == (64, 0.25)
    assert config.resolve(model, vocabulary=5, length=5) == model
    given = replace_fields(
        model,
        {
            "vocabulary": 77,
            "attention.kv_heads": 2,
            "attention.head_width": 32,
            "mlp.width": 10,
            "positions.max_length": 9,
            "attention.scale": 1.0,
        },
    )
    assert config.resolve(given, vocabulary=1000, length=64) == given


def test_the_options_of_an_objective_are_those_of_its_class(capsys):
    given = Experiment(objectives=(Masked(), SpanCorruption()))
    options = ["--objectives.0.mask-rate", "0.3", "--objectives.1.mean-span", "5"]
    assert command_line.parse("train", options, given).objectives == (
        Masked(mask_rate=0.3),
        SpanCorruption(mean_span=5.0),
    )
    with pytest.raises(InputError, match=r"no option --objectives\.1\.mask-rate"):
        command_line.parse("train", ["--objectives.1.mask-rate", "0.3"], given)
    with pytest.raises(SystemExit):
        command_line.parse("train", ["--help"], given)
    shown = capsys.readouterr().out
    assert "--objectives.0.whole-words" in shown and "--objectives.1.noise-rate" in shown
    assert "preference" not in shown  # facts of a class are no options


def test_every_field_has_a_meaning():
    """`--help` shows the comments of `config.py`; a field without one would be a riddle there. A part of the tree has
    the docstring of its class instead."""
    silent = []
    for kind in filter(dataclasses.is_dataclass, vars(config).values()):
        text = inspect.getsource(kind).splitlines()
        hints = get_type_hints(kind)
        for name in [each.name for each in dataclasses.fields(kind) if not dataclasses.is_dataclass(hints[each.name])]:
            if name not in kind.__annotations__ or name == "objectives":
                continue
            number = next(i for i, line in enumerate(text) if line.startswith(f"    {name}: "))
            if "  # " not in text[number] and not text[number - 1].startswith("    # "):
                silent.append(f"{kind.__name__}.{name}")
    assert not silent


def test_objectives_are_found_in_an_editable_installation(tmp_path):
    """Whose packages are found by a finder of their own, not on the path."""
    root = Path(config.__file__).resolve().parents[2]
    code = f"""
import sys
from importlib.machinery import PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(root)!r}]) if name == "research" else None

sys.meta_path.insert(0, Finder)
from research.config import Experiment, validation
validation.validate(Experiment())
print(sys.modules["research"].__file__)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stdout.strip() == str(root / "research" / "__init__.py"), ended.stderr
