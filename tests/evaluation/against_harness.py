"""SmolLM2-135M on real tasks, three ways: lm-evaluation-harness through our adapter, the harness through its own `hf`
backend (torch, float32), and our own evaluator. Each is the command that a user types.

    python -m tests.evaluation.against_harness --limit 200       prints the table of docs/evaluation.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from research import interop
from tests.interop import smollm2

DATA = Path(__file__).parents[3] / "shared" / "data" / "eval"
QUESTION = {"output_type": "multiple_choice", "doc_to_target": "gold", "doc_to_choice": "{{choices}}"}
LAST_WORD = {"doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}", "doc_to_target": "{{' '+text.split(' ')[-1]}}"}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {  # the harness' definitions, on local files
    "arc_easy": ("arc_easy.jsonl", {**QUESTION, "doc_to_text": "{{query}}\nAnswer:"}),
    "copa": ("copa.jsonl", {**QUESTION, "doc_to_text": "{{query}}"}),
    "piqa": ("piqa.jsonl", {**QUESTION, "doc_to_text": "{{query}}Answer:"}),
    "lambada": ("lambada_test_openai.jsonl", {"output_type": "loglikelihood", **LAST_WORD}),
}


class Answers(NamedTuple):
    """What one way made of a task."""

    log_probabilities: np.ndarray  # nats, of every option of every item
    accuracy: float  # of LAMBADA: how often the word is what greedy decoding says


Way = dict[str, Answers]  # by task


def through_harness(backend: str, arguments: str, limit: int, folder: Path) -> Way:
    """The harness' own tasks, as YAML files beside local data."""
    tasks, out = folder / "tasks", folder / backend
    tasks.mkdir(exist_ok=True)
    for name, (file, definition) in TASKS.items():
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(DATA / file)}}}
        task = {
            "task": f"local_{name}",
            **files,
            "test_split": "test",
            "metric_list": [{"metric": "acc"}],
            **definition,
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(task))
    names = ",".join(f"local_{name}" for name in TASKS)
    command = [
        sys.executable,
        "-m",
        "research",
        "lm_eval",
        "--model",
        backend,
        "--model_args",
        arguments,
        "--tasks",
        names,
    ]
    command += ["--include_path", str(tasks), "--limit", str(limit), "--log_samples", "--output_path", str(out)]
    run([*command, "--batch_size", "8", "--device", "cpu"])
    found = {}
    for name in TASKS:
        (path,) = out.rglob(f"samples_local_{name}_*.jsonl")
        rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["doc_id"])
        scores = [float(response[0][0]) for row in rows for response in row["resps"]]
        found[name] = Answers(np.array(scores), float(np.mean([row["acc"] for row in rows])))
    return found


def through_evaluate(checkpoint: str, limit: int, folder: Path) -> Way:
    """Our evaluator."""
    command = [sys.executable, "-P", "-m", "research", "evaluate", checkpoint, "--tasks", *TASKS, "--data", str(DATA)]
    run([*command, "--limit", str(limit), "--untrained", "False", "--out", str(folder)])
    results = {result["task"]: result for result in json.loads((folder / "results.json").read_text())}
    found = {}
    for name in TASKS:
        rows = [json.loads(line) for line in next(folder.rglob(f"{name}.jsonl")).read_text().splitlines()]
        scores = [option["log_probability"] for row in rows for option in row["options"]]
        first = results[name]["measured"][0]
        assert first["metric"] in ("accuracy", "greedy")
        found[name] = Answers(np.array(scores), first["estimate"][0])
    return found


def run(command: list[str]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, env={**environment, **offline}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def compare(limit: int) -> dict[str, Way]:
    """The three ways, each on the first `limit` items of every task."""
    checkpoint = smollm2.path()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        interop.write(
            folder / "exported", *interop.load_checkpoint(checkpoint)
        )  # the same weights and tokenizer for torch
        return {
            "our evaluator": through_evaluate(checkpoint, limit, folder / "ours"),
            "harness, our adapter": through_harness("research", f"checkpoint={checkpoint}", limit, folder),
            "harness, hf": through_harness("hf", f"pretrained={folder / 'exported'},dtype=float32", limit, folder),
        }


def furthest(one: Answers, other: Answers) -> float:
    """The largest difference of the log-likelihoods of an option, nats."""
    return float(np.abs(one.log_probabilities - other.log_probabilities).max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=200)
    ways = compare(parser.parse_args().limit)
    ours, adapter, hf = ways.values()
    print(f"| task | log-likelihoods | {' | '.join(ways)} | adapter − hf | evaluator − hf |")
    print("|---|---|---|---|---|---|---|")
    for name in TASKS:
        count, accuracies = len(hf[name].log_probabilities), (f"{way[name].accuracy:.4f}" for way in ways.values())
        gaps = furthest(adapter[name], hf[name]), furthest(ours[name], hf[name])
        print(f"| {name} | {count} | {' | '.join(accuracies)} | {gaps[0]:.0e} | {gaps[1]:.0e} |")


if __name__ == "__main__":
    main()
