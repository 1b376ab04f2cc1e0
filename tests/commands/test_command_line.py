"""The command line: fields set by their paths, and what a mistake is answered with."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from research import config
from research.commands import command_line
from research.commands.command_line import Training
from research.config import (
    MLP,
    Attention,
    Causal,
    Experiment,
    Masked,
    Model,
    Norm,
    Positions,
    RopeScaling,
    replace_fields,
)
from research.errors import InputError

BASE = Experiment(objectives=(Causal(), Masked(rate=0.5)))


@pytest.fixture
def file(tmp_path):
    """Writes a config file and gives its name."""

    def write(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def base(file) -> str:
    return file(
        "from research.config import Causal, Experiment, Masked\n\n"
        "def get_config():\n    return Experiment(objectives=(Causal(), Masked(rate=0.5)))\n"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", BASE),
        ("--seed 3", replace(BASE, seed=3)),
        ("--optimizer.learning-rate 3e-4", replace(BASE, optimizer=replace(BASE.optimizer, learning_rate=3e-4))),
        ("--optimizer.learning_rate=3e-4", replace(BASE, optimizer=replace(BASE.optimizer, learning_rate=3e-4))),
        (
            "--model.mlp.gated False --model.attention.kv-heads 2",
            replace(BASE, model=Model(mlp=MLP(gated=False), attention=Attention(kv_heads=2))),
        ),
        ("--model.initial-scale None", replace(BASE, model=Model(initial_scale=None))),
        ("--model.norm.kind layernorm", replace(BASE, model=Model(norm=Norm(kind="layernorm")))),
        ("--data.held-out 0.1", replace(BASE, data=replace(BASE.data, held_out=0.1))),
        ("--data.held-out jsonl:x#t", replace(BASE, data=replace(BASE.data, held_out="jsonl:x#t"))),
        ("--objectives.1.mask-rate 0.4", replace(BASE, objectives=(Causal(), Masked(rate=0.5, mask_rate=0.4)))),
        (
            "--model.positions.scaling.factor 4",
            replace(BASE, model=Model(positions=Positions(scaling=RopeScaling(factor=4.0)))),
        ),
        (
            "--mesh.rules batch=data,fsdp mlp= --mesh.fsdp 2",
            replace(BASE, mesh=config.Mesh(fsdp=2, rules=(("batch", ("data", "fsdp")), ("mlp", ())))),
        ),
    ],
)
def test_a_field_is_set_by_its_path(base, options, expected):
    assert command_line.train([base, *options.split()]) == Training(expected, Path("runs/mine"))


def test_the_run_folder_and_steps_to_profile_can_be_named(base):
    chosen = command_line.train([base, "--workdir", "a/b", "--profile", "2:3"])
    assert chosen == Training(BASE, Path("a/b"), "2:3")
    with pytest.raises(InputError, match="mounts a bucket"):
        command_line.train([base, "--workdir", "gs://bucket/run"])


@pytest.mark.parametrize("other", ["--resume-from 3", "--profile 1:2"])
def test_a_step_is_replayed_alone(base, other):
    with pytest.raises(InputError, match="--replay only shows a step"):
        command_line.train([base, "--replay", "5", *other.split()])


def test_a_saved_experiment_is_a_config_and_its_folder_the_run(tmp_path):
    config.save(BASE, tmp_path / "experiment.json")
    assert command_line.train([str(tmp_path / "experiment.json")]) == Training(BASE, tmp_path)


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ("--optimizer.learning-rat 3", "nearest: --optimizer.learning-rate"),
        ("--learning-rate 3", "nearest: --optimizer.learning-rate"),
        ("--learningrate 3", "nearest: --optimizer.learning-rate"),
        ("--optimiser.learning-rate 3", "nearest: --optimizer.learning-rate"),
        ("--batch-size 3", "here it is --data.batch"),
        ("--lr 3", "here it is --optimizer.learning-rate"),
        ("--model.attention.kv_head=3", "nearest: --model.attention.kv-heads"),
        ("--objectives.2.rate 3", "nearest: --objectives.0.rate"),
        ("--work-dir x", "nearest: --workdir"),
        ("--qqqq 3", "--help lists all"),
        ("--seed 3 4", "'4' belongs to no option"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(base, options, nearest):
    with pytest.raises(InputError) as error:
        command_line.train([base, *options.split()])
    assert nearest in str(error.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ("--seed x", "--seed"),
        ("--data.batch 1.5", "--data.batch"),
        ("--model.mlp.gated perhaps", "--model.mlp.gated"),
        ("--model.positions.kind sideways", "--model.positions.kind"),
        ("--optimizer.learning-rate", "--optimizer.learning-rate"),
        ("--mesh.rules batch", "--mesh.rules"),
    ],
)
def test_a_wrong_value_is_answered_with_its_field(base, options, field, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.train([base, *options.split()])
    assert ended.value.code == 2
    assert field in capsys.readouterr().err


def test_help_lists_every_field_with_its_default(base, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.train([base, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for path, _ in command_line._leaves(replace(BASE, model=replace_fields(BASE.model, {"positions.scaling": None}))):
        assert (
            f"--{path.replace('_', '-')}".replace("--model.positions.scaling", "--model.positions.scaling.{kind")
            in shown
        )
    assert "share of the rows of a batch" in shown and "(default: 0.5)" in shown and "runs/mine" in shown


def test_help_needs_no_config(capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.train(["--help"])
    assert ended.value.code == 0
    assert "--optimizer.learning-rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "there is no function get_config()"),
        ("def get_config():\n    return 3", "returned int, not an Experiment"),
        ("def get_config(:", "mine.py, line 1: SyntaxError"),
        ("import nowhere", "mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "from research.config import Model\n\ndef get_config():\n    return Model(widht=3)",
            "mine.py, line 4: TypeError",
        ),
        ("from research.models import families\n\ndef get_config():\n    families.t5('tiny')", "has no size 'tiny'"),
    ],
)
def test_a_config_file_that_fails_is_named_with_the_line(file, text, message):
    with pytest.raises(InputError) as error:
        command_line.train([file(text)])
    assert message in str(error.value)


def test_a_missing_config_file_is_answered_with_those_beside_it(base):
    with pytest.raises(InputError, match=r"yours\.py; .* has mine\.py"):
        command_line.train([str(Path(base).parent / "yours.py")])
    with pytest.raises(InputError, match="begins with a config file"):
        command_line.train(["--seed", "3"])


def test_a_config_file_can_vary_the_one_beside_it(base, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "from dataclasses import replace\nimport mine\n\n"
        "def get_config():\n    return replace(mine.get_config(), seed=7)\n"
    )
    path = list(sys.path)
    assert command_line.train([str(other)]).experiment == replace(BASE, seed=7)
    assert sys.path == path


def test_mistakes_end_the_process_with_one_message_and_without_jax(base):
    program = (
        "import sys\nfrom research.commands import command_line\n"
        "def main(arguments):\n    try:\n        command_line.train(arguments)\n"
        "    finally:\n        assert 'jax' not in sys.modules\n"
        "command_line.run(main, sys.argv[1:])"
    )
    ended = subprocess.run([sys.executable, "-c", program, base, "--zzz", "3"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: there is no option --zzz; --help lists all\n"


@dataclass(frozen=True)
class Part:
    top: int = 0  # choices


@dataclass(frozen=True)
class Options:
    """Does something."""

    prompt: tuple[str, ...] = ()  # texts
    part: Annotated[Part, tyro.conf.arg(name="")] = field(default_factory=Part)


def test_other_commands_have_typed_options_too():
    assert command_line.first(["runs/a", "--top", "3"], "no checkpoint") == ("runs/a", ["--top", "3"])
    assert command_line.first(["--help"], "no checkpoint") == (None, ["--help"])
    with pytest.raises(InputError, match="no checkpoint"):
        command_line.first([], "no checkpoint")
    options = command_line.parse("generate", ["--prompt", "a b", "c", "--top", "3"], Options())
    assert options == Options(prompt=("a b", "c"), part=Part(3))
    with pytest.raises(InputError, match=r"nearest: --top$"):
        command_line.parse("generate", ["--tops", "3"], Options())
