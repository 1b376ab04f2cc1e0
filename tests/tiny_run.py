"""A run of seconds, with tasks: what commands that read run folders are tested on."""

import io
from pathlib import Path

from rich.console import Console

from research.commands.train import train
from research.config import (
    MLP,
    Attention,
    Causal,
    Checkpoint,
    Data,
    Evaluation,
    Experiment,
    Logging,
    Masked,
    Model,
    Schedule,
)

STEPS = (2, 4)  # of its checkpoints
QUESTIONS = 6


def make(folder: Path) -> Path:
    """Trains it in a folder, and returns the run folder."""
    text = folder / "text.txt"
    text.write_text("\n".join(f"{n} and {n * n} are a number and its square." for n in range(200)))
    experiment = Experiment(
        model=Model(width=16, depth=1, attention=Attention(heads=2), mlp=MLP(width=32)),
        objectives=(Causal(), Masked()),
        data=Data(source=f"text:{text}", tokenizer="bytes", length=64, batch=8, cache=str(folder / "cache")),
        schedule=Schedule(steps=STEPS[-1], warmup=1),
        checkpoint=Checkpoint(every=2, keep_last=10),
        evaluation=Evaluation(every=2, batches=1, samples=False, tasks=("copying",), limit=QUESTIONS),
        logging=Logging(every=1, tensorboard=False),
    )
    train(experiment, folder / "run", Console(file=io.StringIO()))
    return folder / "run"
