"""What happens inside a model while it reads."""

from dataclasses import dataclass

import jax
import numpy as np

from research import models
from research.config import Model
from research.data.tokenizers import Tokenizer
from research.models import Params
from research.objectives import Batch, Example
from research.sharding import gather_to_host


@dataclass(frozen=True)
class Inside:
    """What happens inside a model while it reads; float32, without padding."""

    tokens: list[str]
    attention: np.ndarray  # [layer, head, query, key]
    query: np.ndarray  # [layer, head, place, head_width]; turned, where positions are rotary
    key: np.ndarray  # [layer, kv_head, place, head_width]; likewise
    value: np.ndarray  # [layer, kv_head, place, head_width]
    residual: np.ndarray  # [layer, place, width]: the stream after each layer


def look(model: Model, params: Params, tokenizer: Tokenizer, batch: Batch, example: Example) -> Inside:
    """Inside the stack that reads an example, given as the first row of a batch too: the encoder, if there is one."""
    stack = "encoder" if model.encoder_depth else "decoder"
    layers = _inside(model, params, batch)[stack]["layers"]
    tokens = example.tokens if example.source is None else example.source
    n, own = len(tokens), {name: gather_to_host(array[:, 0]) for name, array in layers["attention"].items()}
    query, key, value = (own[name][:, :n].swapaxes(1, 2) for name in ("queries", "keys", "values"))
    residual = gather_to_host(layers["residual"][:, 0, :n])
    return Inside(tokenizer.pieces(tokens), own["attention"][:, :, :n, :n], query, key, value, residual)


def lens(model: Model, params: Params, batch: Batch) -> np.ndarray:
    """The logits that the residual stream after each layer would give, of the first row of a batch."""
    layers = _inside(model, params, batch)["decoder"]["layers"]
    return gather_to_host(_read_out(model, params, layers["residual"][:, 0]))


_inside = jax.jit(models.inside, static_argnums=0)
_read_out = jax.jit(models.read_out, static_argnums=0)
