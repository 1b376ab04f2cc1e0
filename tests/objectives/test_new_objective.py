"""An objective that is not shipped is one class: every other room works with what the class says of itself."""

import ast
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from rich.console import Console

import research
from research import config
from research.analysis import page
from research.commands import evaluate
from research.config import MLP, Attention, Checkpoint, Data, Evaluation, Experiment, Logging, Model, Probes, Schedule
from research.config.validation import validate
from research.errors import InputError
from research.objectives import SHIPPED, Objective, join
from research.runs.records import read
from research.runs.trainer import train
from tests.evaluation.shared import model

ROOT = Path(research.__file__).parent


@dataclass(frozen=True, kw_only=True)
class TokenDeletion(Objective):
    """Predict a document from what is left of it after random tokens are deleted (BART, section 2.2)."""

    name: str = "token_deletion"  # in metrics and results
    rate_deleted: float = 0.15  # share of tokens to delete

    def _example(self, parts, key, vocabulary, start):
        (piece,) = parts
        kept = np.random.default_rng(key).random(len(piece)) >= self.rate_deleted
        kept[0] = True  # an input has a token
        return join(piece[kept], piece, start)

    def _places(self, sizes, encoder_decoder):
        (tokens,) = sizes
        return (tokens, tokens) if encoder_decoder else (2 * tokens - 1, 0)


@dataclass(frozen=True, kw_only=True)
class Backwards(Objective):
    """Predict each token from those that follow it."""

    name: str = "backwards"  # in metrics and results

    chunked: ClassVar[bool] = True
    overlap: ClassVar[int] = 1

    def _example(self, parts, key, vocabulary, start):
        (piece,) = parts
        return join(piece[-1:], piece[-2::-1], start)

    def _places(self, sizes, encoder_decoder):
        return (sizes[0] - 1, 1) if encoder_decoder else (sizes[0] - 1, 0)


def experiment(folder: Path) -> Experiment:
    text = folder / "text.txt"
    text.write_text("\n".join(f"{n} and {n * n} are a number and its square." for n in range(200)))
    return Experiment(
        model=Model(width=16, depth=1, attention=Attention(heads=2), mlp=MLP(width=32)),
        objectives=(TokenDeletion(rate_deleted=0.3), Backwards()),
        data=Data(source=f"text:{text}", tokenizer="bytes", length=64, batch=8, cache=str(folder / "cache")),
        schedule=Schedule(steps=4, warmup=1),
        checkpoint=Checkpoint(every=2, keep_last=10),
        evaluation=Evaluation(
            every=2, batches=1, tasks=("copying",), limit=4, probes=Probes(continuations=(("1 and", " 1"),))
        ),
        logging=Logging(every=1, tensorboard=False),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    train(experiment(folder), folder / "run", Console(file=io.StringIO()))
    return folder / "run"


def test_it_trains_is_sampled_evaluated_and_reported(run):
    records = read(run / "metrics.jsonl")
    names = {"token_deletion", "backwards"}
    assert {name for r in records if r["kind"] == "held_out" for name in r["losses"]} == names
    assert {name for r in records if r["kind"] == "samples" for name in r["samples"]} == names
    assert {name for r in records if r["kind"] == "tasks" for name in r["scores"]} == {f"copying/{n}" for n in names}
    result = json.loads((run / "result.json").read_text())
    assert set(result["objectives"]) == names and result["probes"]["continuations"]
    assert "token_deletion" in page.write([run]).read_text()


def test_it_is_stored_by_its_module_and_resumes_to_the_last_bit(run, tmp_path):
    stored = json.loads((run / "experiment.json").read_text())["experiment"]["objectives"]
    assert stored[0]["objective"] == f"{__name__}:TokenDeletion" and stored[0]["rate_deleted"] == 0.3
    half = tmp_path / "run"
    shutil.copytree(run, half)
    shutil.rmtree(half / "checkpoints" / "4")
    (half / "result.json").unlink()
    train(experiment(run.parent), half, Console(file=io.StringIO()))
    ours, theirs = research.load(str(run)), research.load(str(half))
    assert ours.objectives == theirs.objectives == experiment(run.parent).objectives
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_it_is_asked_like_any_other(run, tmp_path):
    lm = research.load(str(run))
    assert lm.score("7 and 49", " are").kind == "exact"
    assert isinstance(lm.generate("7 and"), str) and len(lm.next_tokens("7 and", 3)) == 3
    assert len(lm.token_losses("7 and 49", "backwards")) == len("7 and 49") + 1
    evaluate.main([str(run), "--tasks", "copying", "addition", "--limit", "2", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    assert {(one["prompt_format"], one["kind"]) for one in found} == {
        ("token_deletion", "exact"),
        ("backwards", "exact"),
    }
    assert all(one["measured"] for one in found)


def test_an_encoder_decoder_is_asked_as_it_too():
    lm = replace(model(encoder_depth=1), objectives=(TokenDeletion(),))
    assert len(lm.score("7 and 49", " are").tokens) == len(" are")
    assert isinstance(lm.generate("7 and"), str)


def test_a_class_that_cannot_be_imported_again_is_refused_before_the_work():
    @dataclass(frozen=True, kw_only=True)
    class Local(TokenDeletion):
        name: str = "local"

    with pytest.raises(InputError, match=r"objectives.0: .*Local cannot be imported .*PYTHONPATH"):
        validate(Experiment(objectives=(Local(),)))
    with pytest.raises(InputError, match=r"objective 'local': .*cannot be imported"):
        config.to_dict(Experiment(objectives=(Local(),)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.nowhere:Missing", "tests.nowhere:Missing cannot be imported"),
        (f"{__name__}:Missing", "Missing cannot be imported"),
        ("json:JSONDecoder", "json:JSONDecoder is not a class of objectives"),
    ],
)
def test_a_stored_class_that_is_not_there_is_named(name, message):
    tree = config.to_dict(Experiment())
    tree["objectives"][0]["objective"] = name
    with pytest.raises(InputError, match=message):
        config.from_dict(tree)


def test_no_other_room_asks_which_objective_it_has():
    names = {kind.__name__ for kind in SHIPPED}
    asking = []
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "objectives"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            of: list[ast.AST] = []
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass", "type"):
                of = node.args
            elif isinstance(node, ast.MatchClass):
                of = [node.cls]
            elif isinstance(node, ast.Compare):
                of = node.comparators
            found = {getattr(part, "id", getattr(part, "attr", "")) for each in of for part in ast.walk(each)} & names
            asking += [f"{path.relative_to(ROOT)}:{node.lineno} asks for {name}" for name in sorted(found)]
    assert not asking
