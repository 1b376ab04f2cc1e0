"""What a path or a name is as a language model."""

import re
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from research import config, interop, models, sharding
from research.config import Causal, Masked, Model, Objective, SpanCorruption, TextToText
from research.data import tokenizers
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.runtime import files
from research.sharding import Layout
from research.training import checkpoint, memory

Dtype = Literal["float32", "bfloat16"]


def load(path: str, mesh: config.Mesh | None = None, dtype: Dtype = "float32") -> LanguageModel:
    """Loads a run folder (RUN@STEP: a step that is not the last), a Hugging Face folder or hub name (NAME@REVISION:
    another than the main branch), or a GGUF file.

    Args:
      path: which.
      mesh: where a model that is larger than a device lies, as `config.Mesh(tensor=8)`: each device reads its own part
        of each parameter, and scoring and generation are split likewise; None: all of it on one device.
      dtype: of the parameters on the devices.

    Raises:
      InputError: if it is none of these, is damaged, has a feature that the stack does not have, or does not fit the
        mesh or the memory of its devices.
    """
    source, (path, step) = path, split_step(path)
    folder = files.expanded(path)
    if (folder / "experiment.json").exists():
        experiment = config.load(folder / "experiment.json")
        layout = None if mesh is None else sharding.layout(mesh, experiment.model)
        like = abstract_params(experiment.model, layout, dtype)
        memory.check_parameters(like, dtype)
        params = checkpoint.restore_params(folder, like, step)
        tokenizer = tokenizers.load(str(folder / "tokenizer"))
        return LanguageModel(experiment.model, params, tokenizer, experiment.objectives, layout)
    if folder.is_dir() and (folder / "checkpoints").exists():
        raise InputError(f"{folder} has checkpoints but no experiment.json: it is not a whole run folder")
    opened = interop.open_checkpoint(source)
    layout = None if mesh is None else sharding.layout(mesh, opened.model)
    like = abstract_params(opened.model, layout, dtype)
    memory.check_parameters(like, dtype)
    params = opened.params(None if layout is None else jax.tree.map(lambda leaf: leaf.sharding, like), dtype=dtype)
    return LanguageModel(opened.model, params, opened.tokenizer, trained_with(opened.model, opened.tokenizer), layout)


def abstract_params(model: Model, layout: Layout | None, dtype: Dtype) -> Any:
    """Shapes, types and shardings of a model's parameters when they are loaded; without a layout, on one device."""
    shapes = jax.eval_shape(partial(models.init, model), jax.random.key(0))
    here = SingleDeviceSharding(jax.local_devices()[0])
    placed = None if layout is None else sharding.parameter_shardings(layout, models.axes(model))

    def like(leaf: Any, to: Any) -> jax.ShapeDtypeStruct:  # integers of a quantised base stay what they are
        kept = dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, kept, sharding=to)

    return jax.tree.map(like, shapes, placed or jax.tree.map(lambda _: here, shapes))


def split_step(path: str) -> tuple[str, int | None]:
    """The folder and the step of RUN@STEP; any other path as it is, and None."""
    named = re.fullmatch(r"(.+)@(\d+)", path)
    return (named[1], int(named[2])) if named else (path, None)


def trained_with(model: Model, tokenizer: Tokenizer) -> tuple[Objective, ...]:
    """What a published architecture was trained with."""
    if model.encoder_depth:
        return (SpanCorruption(), TextToText()) if tokenizer.sentinels else (TextToText(),)
    return (Masked(),) if model.norm.embedding else (Causal(),)  # only BERT and its kin normalise their embeddings
