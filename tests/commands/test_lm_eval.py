"""lm-evaluation-harness, by its own command line, with our checkpoint as the model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from research.errors import InputError
from research.inference import language_model
from research.inference.generation import Sampling
from research.inference.requests import Continuation, Rolling, Scorable
from research.runs import loading

pytest.importorskip("lm_eval")

RECORDS = [{"question": f"{n} and", "options": [f"{n * n} are", "the number"], "gold": n % 2} for n in range(4)]
TASKS = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "gold",
        "doc_to_choice": "{{options}}",
        "metric_list": [{"metric": "acc"}],
    },
    "roll": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question * 30}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{options[0]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 5, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def samples(run, tmp_path_factory) -> dict[str, list]:
    """What the harness has kept of each task: the responses to each record."""
    from research.commands import lm_eval

    folder = tmp_path_factory.mktemp("harness")
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    for name, task in TASKS.items():
        local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "records.jsonl")}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **local, "test_split": "test", **task}))
    arguments = [
        "--model",
        "research",
        "--model_args",
        f"checkpoint={run},prompt_format=causal",
        "--tasks",
        ",".join(TASKS),
    ]
    arguments += ["--include_path", str(folder), "--log_samples", "--output_path", str(folder / "out")]
    before = sys.argv
    try:
        lm_eval.main(arguments)
    finally:
        sys.argv = before
    found = {}
    for name in TASKS:
        (path,) = Path(folder, "out").rglob(f"samples_{name}_*.jsonl")
        rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["doc_id"])
        found[name] = [row["resps"] for row in rows]
    return found


@pytest.fixture(scope="module")
def model(run) -> language_model.LanguageModel:
    return loading.load(str(run))


def ours(model: language_model.LanguageModel, requests: list[Scorable]) -> list[float]:
    found = dict(pair for done in model.score_requests(model.prompt_formats()[0], requests) for pair in done.scores)
    return [found[number].log_probability for number in range(len(requests))]


def test_options_have_the_log_likelihoods_of_our_evaluator(samples, model):
    asked = [Continuation(r["question"], f" {option}") for r in RECORDS for option in r["options"]]
    theirs = [float(response[0][0]) for responses in samples["choose"] for response in responses]
    np.testing.assert_allclose(theirs, ours(model, asked), rtol=1e-4)


def test_long_texts_too(samples, model):
    theirs = [float(np.ravel(responses)[0]) for responses in samples["roll"]]
    np.testing.assert_allclose(theirs, ours(model, [Rolling(r["question"] * 30) for r in RECORDS]), rtol=1e-4)


def test_what_is_written_is_what_our_model_writes(samples, model):
    theirs = [str(np.ravel(responses)[0]) for responses in samples["write"]]
    assert theirs == model.generate([r["question"] for r in RECORDS], Sampling(tokens=5, stop=(".",)))


def test_what_a_model_cannot_do_is_said(run):
    from lm_eval.api.instance import Instance

    from research.runs.harness import Research

    masked = Research(str(run), prompt_format="masked")
    with pytest.raises(InputError, match="asked as masked, the model has no answer to a generation"):
        masked.generate_until([Instance("generate_until", {}, ("a", {}), 0)])
