"""What can be wrong with a run is found before its data is prepared."""

import os
from dataclasses import replace

import pytest

from research.config import MLP, Attention, Data, Evaluation, Logging, Mesh, Model, Probes, Step, replace_fields
from research.data import tokenising, tokenizers
from research.errors import InputError
from research.runs import run_folder
from research.runs.trainer import train
from tests.faults.shared import experiment, quiet

TWO_HEADS = Model(width=16, depth=1, attention=Attention(heads=2), mlp=MLP(width=32))


@pytest.fixture(autouse=True)
def prepared(monkeypatch):
    """The names of the sources that are tokenised; none may be."""
    sources: list[str] = []
    monkeypatch.setattr(tokenising, "prepare", lambda source, *_, **__: sources.append(source.name))
    yield sources
    assert sources == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": Mesh(data=3)}, r"mesh\.data = 3"),
        (
            {
                "mesh": Mesh(tensor=8),
                "model": Model(width=16, depth=1, attention=Attention(heads=2), mlp=MLP(width=32)),
            },
            r"model\.attention\.heads: .*divide",
        ),
        ({"data": {"batch": 6}}, "batch"),
        ({"data": {"source": "text:/nowhere/*.txt"}}, "/nowhere"),
        ({"data": {"held_out": "text:/nowhere/*.txt"}}, "/nowhere"),
        ({"step": Step(accumulation=3)}, r"step\.accumulation"),
        ({"evaluation": Evaluation(tasks=("lambda",))}, "no task 'lambda'"),
        ({"evaluation": Evaluation(tasks=("lambada",))}, "is not in a data folder"),
        ({"evaluation": Evaluation(tasks_every=-1)}, r"evaluation\.tasks_every"),
        ({"logging": Logging(wandb="project")}, "wandb"),
        ({"frozen": ("decoder/nothing/*",)}, "decoder/nothing"),
        ({"initialize_from": "/nowhere"}, "nowhere"),
    ],
)
def test_a_mistake_is_told_before_data_is_prepared(tmp_path, changes, message):
    small = experiment(tmp_path)
    if isinstance(changes.get("data"), dict):
        changes = {"data": replace(small.data, **changes["data"])}
    with pytest.raises(InputError, match=message):
        train(replace(small, **changes), tmp_path / "run", quiet())
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_told_before_data_is_prepared(tmp_path):
    """The model in the folder is resolved and that of the config is not."""
    small = experiment(tmp_path)
    model = replace_fields(small.model, {"vocabulary": 384, "attention.kv_heads": 2, "attention.head_width": 8})
    run_folder.claim(tmp_path / "run", replace(small, model=model), tokenizers.load("bytes"))
    with pytest.raises(InputError, match=r"model\.width: 16 there, 32 here"):
        train(replace(small, model=replace(small.model, width=32)), tmp_path / "run", quiet())


def test_a_folder_that_is_a_file_is_told_before_data_is_prepared(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="is a file, or lies below one"):
            train(experiment(tmp_path), folder, quiet())


def test_a_folder_whose_checkpoints_cannot_be_written_is_told_before_data_is_prepared(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.tempfile, "mkdtemp", refused)
    with pytest.raises(InputError, match="Permission denied"):
        train(experiment(tmp_path), tmp_path / "run", quiet())


def test_a_step_to_resume_from_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"--resume-from 5: .* has checkpoints of \[\]"):
        train(experiment(tmp_path), tmp_path / "run", quiet(), resume_from=5)


def test_data_and_probes_are_not_needed_for_the_checks(tmp_path):
    """Of a right experiment, the check leaves an empty folder and nothing else."""
    from research.runs import checks

    small = experiment(tmp_path, evaluation=Evaluation(probes=Probes(texts=("1 and 1",))))
    assert isinstance(small.data, Data)
    assert checks.check(small, tmp_path / "run").experiment == small
    assert os.listdir(tmp_path / "run") == []
