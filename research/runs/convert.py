"""Checkpoints between formats: what the command `convert` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

import research
from research import config, interop
from research.config import Data, Experiment, Model, Objective
from research.data import cache
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.interop import peft
from research.models import adapters
from research.runs import run_folder
from research.runtime import files
from research.training import checkpoint
from research.training.state import TrainState


@dataclass(frozen=True)
class Options:
    """Writes a checkpoint in another format, whole or not at all."""

    to: Literal["huggingface", "run", "peft"] | None = None  # None: huggingface for a run, a run for anything else
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of a Hugging Face checkpoint
    mesh: config.Mesh | None = None  # devices that hold a model larger than one, as --mesh.tensor 8; not given: one


def convert(source: str, folder: Path, options: Options) -> None:
    """Raises InputError if the source is unusable, the folder exists, or the target cannot express the model."""
    if folder.exists():
        raise InputError(f"{folder} exists; choose another name or remove it")
    of_run = (files.expanded(source) / "experiment.json").exists()
    lm = research.load(source, options.mesh)
    match options.to or ("huggingface" if of_run else "run"):
        case "huggingface":
            check_reading(lm.config, lm.objectives)
            interop.write(folder, *adapters.merge(lm.config, lm.params), lm.tokenizer, options.dtype)
        case "run":
            write_run(folder, lm, source)
        case "peft":
            base = config.load(Path(source) / "experiment.json").initialize_from if of_run else None
            peft.write(folder, lm.config, lm.params, base or "")


def check_reading(model: Model, objectives: Sequence[Objective]) -> None:
    """Raises InputError if `transformers` would let tokens see others than in training."""
    needed = "bidirectional" if model.norm.embedding else "causal"
    if model.encoder_depth == 0 and not any(objective.visibility == needed for objective in objectives):
        trained = ", ".join(f"{type(objective).__name__} ({objective.visibility})" for objective in objectives)
        raise InputError(
            f"transformers would read with this architecture with {needed} attention, but it was trained with {trained}"
        )


def write_run(folder: Path, lm: LanguageModel, source: str) -> None:
    """A run folder of no steps, for every command that takes one. It has no state of an optimizer: training goes on
    from it with `initialize_from`."""
    data = Data(tokenizer=str(folder.absolute() / "tokenizer"))
    experiment = Experiment(model=lm.config, objectives=lm.objectives, data=data, initialize_from=source)
    state = TrainState(jnp.int32(0), lm.params, {}, jnp.uint32(0))
    with cache.building(folder) as partial:
        run_folder.claim(partial, experiment, lm.tokenizer)
        with checkpoint.manager(partial, experiment.checkpoint) as checkpoints:
            checkpoint.save(checkpoints, state)
