"""Run folders as training and evaluation leave them, without either."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from research import config
from research.config import Attention, Causal, Experiment, Masked, Model, Schedule
from research.data import tokenizers
from research.runs import run_folder

STEPS = 40


def experiment(**changes: Any) -> Experiment:
    model = config.resolve(Model(width=16, depth=2, attention=Attention(heads=2)), 64, 32)
    objectives = (Causal(), Masked(rate=0.5))
    return replace(Experiment(model=model, objectives=objectives, schedule=Schedule(steps=STEPS, warmup=5)), **changes)


def write(folder: Path, seed: int = 0, complete: bool = True, seeded: bool = False, **changes: Any) -> Path:
    """A run of 40 steps with an evaluation at every tenth; without its last half if it is not complete. `seeded`: the
    experiment says with which seed."""
    changes |= {"seed": seed} if seeded else {}
    run_folder.claim(folder, experiment(**changes), tokenizers.load("bytes"))
    steps = STEPS if complete else STEPS // 2
    records = [record for step in range(1, steps + 1) for record in _records(step, seed)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if complete:
        losses = {"loss": 2.0, "unigram": 3.0, "uniform": 4.0}
        result = {"objectives": {"causal": losses, "masked": losses}, "seconds": 100.0, "peak_memory_bytes": 2**30}
        run_folder.write_result(folder, result)
    return folder


def _records(step: int, seed: int) -> list[dict[str, Any]]:
    noise = np.random.default_rng((seed, step)).normal(0, 0.05, 2)
    losses = {"causal": 2 + 2 / step + noise[0], "masked": 3 + 1 / step + noise[1]}
    train = {
        "kind": "train",
        "step": step,
        "loss": losses["causal"],
        "losses": losses,
        "gradient_norm": 1.0,
        "parameter_norm": 10.0,
        "learning_rate": 1e-3,
        "tokens_per_second": 2048.0 if step > 1 else 0.0,
        "mfu": 0.25,
        "waiting": 0.5,
        "spent": {"training": step / 2, "compiling": 3.0, "waiting": step / 2, "down": 0.0},
    }
    pieces = [["the <b>cat</b>", "dim"], [f" sat {step} times", "bold green"]]
    evaluation = [
        {"kind": "held_out", "step": step, "losses": {"causal": 2 + 3 / step}},
        {"kind": "tasks", "step": step, "scores": {"cloze/causal": step / 100}},
        {"kind": "samples", "step": step, "samples": {"causal": pieces}},
    ]
    return [train, *(evaluation if step % 10 == 0 else [])]


def evaluate(folder: Path, estimate: tuple[float, float | None, float | None] = (0.5, 0.4, 0.6)) -> None:
    """`evaluation/results.json` with one task and two metrics, at two steps."""
    measured = [
        {"metric": "accuracy", "better": "higher", "estimate": estimate, "baselines": {"chance": 0.25},
         "normalised": 0.3, "verdict": "above chance"},
        {"metric": "bits", "better": "lower", "estimate": [2.0, 1.5, 3.5], "baselines": {"untrained model": 4.0},
         "normalised": None, "verdict": "better than untrained model"},
    ]  # fmt: skip
    result = {"checkpoint": f"{folder.name}@{STEPS}", "task": "cloze", "prompt_format": "causal", "kind": "exact",
              "shots": 0, "items": 16, "measured": measured}  # fmt: skip
    older = result | {"checkpoint": f"{folder.name}@9", "measured": []}
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "results.json").write_text(json.dumps([result, older]))
