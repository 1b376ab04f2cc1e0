"""A run of a second, on which faults are injected."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from research.config import (
    MLP,
    Attention,
    Causal,
    Checkpoint,
    Data,
    Evaluation,
    Experiment,
    Logging,
    Model,
    Optimizer,
    Schedule,
)
from research.runs.records import FILE, read

STEPS = 12
TIMED = ("time", "goodput", "spent", "tokens_per_second", "mfu", "waiting")  # what no two runs share


def experiment(folder: Path, **changes: Any) -> Experiment:
    """Its text and its cache are in a folder."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("\n".join(f"{n} and {n * n} are a number and its square." for n in range(200)))
    small = Experiment(
        model=Model(width=16, depth=1, attention=Attention(heads=2), mlp=MLP(width=32)),
        objectives=(Causal(),),
        data=Data(source=f"text:{text}", tokenizer="bytes", length=32, batch=8, held_out=0.2, cache=str(folder / "c")),
        optimizer=Optimizer(learning_rate=1e-2),
        schedule=Schedule(steps=STEPS, warmup=2),
        checkpoint=Checkpoint(every=4, keep_last=10),
        evaluation=Evaluation(every=6, batches=1, final_batches=1, samples=False),
        logging=Logging(every=5, tensorboard=False),
    )
    return replace(small, **changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    return console.file.getvalue()


def measures(folder: Path) -> list[dict[str, Any]]:
    """The records of a run without what depends on the clock."""
    return [{k: v for k, v in record.items() if k not in TIMED} for record in read(folder / FILE)]
