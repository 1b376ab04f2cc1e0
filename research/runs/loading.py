"""What a path or a name is as a language model."""

import re
from functools import partial

import jax
from jax.sharding import SingleDeviceSharding

from research import config, interop, models
from research.config import Causal, Masked, Model, Objective, SpanCorruption, TextToText
from research.data import tokenizers
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.runtime import files
from research.training import checkpoint


def load(path: str) -> LanguageModel:
    """Loads a run folder (RUN@STEP: a step that is not the last), a Hugging Face folder or hub name (NAME@REVISION:
    another than the main branch), or a GGUF file.

    Raises:
      InputError: if it is none of these, is damaged, or has a feature that the stack does not have.
    """
    source, (path, step) = path, split_step(path)
    folder = files.expanded(path)
    if (folder / "experiment.json").exists():
        experiment = config.load(folder / "experiment.json")
        here = SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.eval_shape(partial(models.init, experiment.model), jax.random.key(0))
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        params = checkpoint.restore_params(folder, like, step)
        return LanguageModel(
            experiment.model, params, tokenizers.load(str(folder / "tokenizer")), experiment.objectives
        )
    if folder.is_dir() and (folder / "checkpoints").exists():
        raise InputError(f"{folder} has checkpoints but no experiment.json: it is not a whole run folder")
    model, params, tokenizer = interop.load(source)
    return LanguageModel(model, params, tokenizer, trained_with(model, tokenizer))


def split_step(path: str) -> tuple[str, int | None]:
    """The folder and the step of RUN@STEP; any other path as it is, and None."""
    named = re.fullmatch(r"(.+)@(\d+)", path)
    return (named[1], int(named[2])) if named else (path, None)


def trained_with(model: Model, tokenizer: Tokenizer) -> tuple[Objective, ...]:
    """What a published architecture was trained with."""
    if model.encoder_depth:
        return (SpanCorruption(), TextToText()) if tokenizer.sentinels else (TextToText(),)
    return (Masked(),) if model.norm.embedding else (Causal(),)  # only BERT and its kin normalise their embeddings
