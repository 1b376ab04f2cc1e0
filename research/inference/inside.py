"""Inside a model while it reads: what was recorded at named places, and what follows from edits of them.

Everything here is a pure function under `jit`. Edits are data: one program serves all edits of the same places and
functions, and `sweep` computes many of them at once.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research import models
from research.config import Model
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference import edits as editing
from research.inference.edits import Edit, Index, Lengths
from research.models import Params, places
from research.models.places import Change, Changes
from research.objectives import Batch, Example
from research.sharding import gather_to_host

TOKENS = 65_536  # places that a sweep computes at once
TOKENS_ON_CPU = 2048
LOOKED_AT = tuple(f"attention/{name}" for name in ("weights", "queries", "keys", "values"))

# A number for each text from the float32 logits `[text, vocabulary]` at one place of each: a `jax.tree_util.Partial`,
# so that programs are compiled for the function and not for its arguments (see `analysis.measures`).
Measure = Callable[[Array], Array]


@dataclass(frozen=True)
class ForwardPass:
    """What a model computed for some texts; float32 on the host, without what is padding in all of them."""

    tokens: list[list[str]]  # of each text
    source: list[list[str]] | None  # of what the encoder of an encoder-decoder read
    logits: np.ndarray  # [text, token, vocabulary]
    recorded: dict[str, np.ndarray]  # by the name of the place
    lengths: Lengths

    def __getitem__(self, name: str) -> np.ndarray:
        """What was recorded at a place, by its name or the end of it. Raises InputError if not exactly one fits."""
        return self.recorded[self.name(name)]

    def name(self, name: str) -> str:
        """The whole name of a recorded place."""
        if not self.recorded:
            raise InputError(f"{name!r} was not recorded: give its name as `record`")
        found = editing.select(name, self.recorded)
        if len(found) > 1:
            raise InputError(f"{name!r} is not one place but several: {', '.join(found)}")
        return found[0]

    def at(self, name: str, **at: Index) -> np.ndarray:
        """A part of what was recorded, by the names of axes: `at("attention/weights", layer=3, head=2, token=-1)`. An
        axis with a single index is left out. Tokens count within the longest text.

        Raises:
          InputError: if the place was not recorded, or has no such axis or index.
        """
        whole = self.name(name)
        array, axes = self.recorded[whole], editing.check_axes(at, whole)
        for number, axis in reversed(list(enumerate(axes))):
            if axis in at:
                found = editing.indices(at[axis], array.shape[number], axis, whole)
                array = array.take(found[0] if isinstance(at[axis], int | np.integer) else found, axis=number)
        return array

    def mean(self, name: str) -> np.ndarray:
        """The mean over all tokens of all texts, with axes of size 1 for them."""
        whole = self.name(name)
        axes, array = places.axes(whole), self.recorded[whole]
        lengths = self.lengths.of(whole, "token")
        real = np.arange(array.shape[axes.index("token")]) < np.array(lengths)[:, None]
        weights = real.reshape(
            [size if axis in ("text", "token") else 1 for axis, size in zip(axes, array.shape, strict=True)]
        )
        over = axes.index("text"), axes.index("token")
        return np.asarray((array * weights).sum(axis=over, keepdims=True) / weights.sum())


def run(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    batch: Batch,
    examples: Sequence[Example],
    record: Sequence[str] = (),
    edits: Sequence[Edit] = (),
) -> ForwardPass:
    """Reads a batch that holds one example in each row. With nothing to record or to edit, it is the program that
    `LanguageModel.logits` runs.

    Raises:
      InputError: if a place, or what an edit says of it, is not in the model.
    """
    known, lengths = known_places(model, batch), lengths_of(examples)
    names = frozenset(name for pattern in record for name in editing.select(pattern, known))
    changes = editing.changes(edits, known, lengths)
    if names or changes:
        scores, recorded = _run(model, names, params, batch, changes)
    else:
        scores, recorded = logits(model, params, batch), {}
    sources = [example.source for example in examples if example.source is not None]
    return ForwardPass(
        [tokenizer.pieces(example.tokens) for example in examples],
        [tokenizer.pieces(source) for source in sources] or None,
        gather_to_host(scores)[:, : max(lengths.token)],
        {name: _trimmed(gather_to_host(array), name, lengths) for name, array in recorded.items()},
        lengths,
    )


def sweep(
    model: Model,
    params: Params,
    batch: Batch,
    examples: Sequence[Example],
    read: Sequence[int],
    edits: Sequence[Sequence[Edit]],
    measure: Measure,
) -> Float[np.ndarray, "edits texts"]:
    """What `measure` makes of the logits at one place of each text (`read`), after each of many edits by itself. All
    have the same places and functions, and are computed in batches by one compiled program; what they share (the values
    of another run, say) exists once.

    Raises:
      InputError: as `run`, or if the edits are not alike.
    """
    known, lengths = known_places(model, batch), lengths_of(examples)
    made: dict[tuple[int, str], np.ndarray] = {}
    all_changes = [editing.changes(each, known, lengths, made) for each in edits]
    forms = {jax.tree.structure(changes) for changes in all_changes}
    if len(forms) != 1:
        raise InputError("edits of one sweep must have the same places and functions")
    first = all_changes[0]
    own = frozenset(
        (name, number)
        for name, several in first.items()
        for number, change in enumerate(several)
        if any(changes[name][number].value is not change.value for changes in all_changes)
    )
    budget = TOKENS_ON_CPU if jax.default_backend() == "cpu" else TOKENS
    most = max(1, budget // max(batch.tokens.size, 0 if batch.source is None else batch.source.tokens.size))
    size = 1
    while size < min(most, len(edits)):
        size *= 2
    size = min(size, most)
    found = []
    for start in range(0, len(edits), size):
        part = all_changes[start : start + size]
        part = [*part, *part[-1:] * (size - len(part))]
        stacked = {
            name: tuple(
                Change(
                    change.function,
                    np.stack(np.broadcast_arrays(*(changes[name][number].where for changes in part))),
                    np.stack([changes[name][number].value for changes in part])
                    if (name, number) in own
                    else change.value,
                )
                for number, change in enumerate(several)
            )
            for name, several in first.items()
        }
        found.append(gather_to_host(_sweep(model, own, params, batch, np.array(read), stacked, measure)))
    return np.concatenate(found)[: len(edits)]


def gradients(
    model: Model,
    params: Params,
    batch: Batch,
    examples: Sequence[Example],
    read: Sequence[int],
    record: Sequence[str],
    measure: Measure,
    edits: Sequence[Edit] = (),
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What `measure` makes of each text, float32 `[text]`; what was recorded at some places, after edits of them; and
    the derivative of the former by the latter, of the same shapes.

    Raises:
      InputError: as `run`.
    """
    known, lengths = known_places(model, batch), lengths_of(examples)
    names = frozenset(name for pattern in record for name in editing.select(pattern, known))
    changes = editing.changes(edits, known, lengths)
    nothing = {name: np.zeros(known[name].shape, known[name].dtype) for name in names}
    measured, recorded, slopes = _gradients(model, params, batch, np.array(read), changes, nothing, measure)
    values, derivatives = (
        {name: _trimmed(gather_to_host(array), name, lengths) for name, array in each.items()}
        for each in (recorded, slopes)
    )
    return gather_to_host(measured), values, derivatives


def known_places(model: Model, batch: Batch) -> dict[str, jax.ShapeDtypeStruct]:
    """Every place that a model has, with the shape of its array for a batch."""
    return _known_places(model, batch.tokens.shape, None if batch.source is None else batch.source.tokens.shape)


def lengths_of(examples: Sequence[Example]) -> Lengths:
    """How many tokens each has."""
    sources = tuple(len(example.source) for example in examples if example.source is not None)
    return Lengths(tuple(len(example.tokens) for example in examples), sources or None)


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
    record = [f"{stack}/{name}" for name in (*LOOKED_AT, "residual")]
    seen = run(model, params, tokenizer, batch, [example], record)
    attention, *vectors = (seen[name][:, 0] for name in record[:-1])
    tokens = seen.tokens[0] if seen.source is None else seen.source[0]
    query, key, value = (array.swapaxes(1, 2) for array in vectors)
    return Inside(tokens, attention, query, key, value, seen[record[-1]][:, 0])


def lens(model: Model, params: Params, batch: Batch) -> np.ndarray:
    """The logits that the residual stream after each layer would give, of the first row of a batch."""
    name = "decoder/residual"
    _, recorded = _features(model, frozenset([name]), params, batch)
    return gather_to_host(read_out(model, params, recorded[name][:, 0]))


@functools.lru_cache(maxsize=64)
def _known_places(
    model: Model, shape: tuple[int, int], source: tuple[int, int] | None
) -> dict[str, jax.ShapeDtypeStruct]:
    def side(shape: tuple[int, int]) -> Batch:
        integers: Any = jax.ShapeDtypeStruct(shape, np.int32)
        floats: Any = jax.ShapeDtypeStruct(shape, np.float32)
        return Batch(integers, integers, floats, integers, integers, integers)

    batch = side(shape) if source is None else replace(side(shape), source=side(source))
    params = jax.eval_shape(partial(models.init, model), jax.random.key(0))
    _, recorded = jax.eval_shape(partial(models.run, model, record=None), params, batch)
    return dict(sorted(recorded.items()))


def _trimmed(array: np.ndarray, name: str, lengths: Lengths) -> np.ndarray:
    """Without what is padding in all texts."""
    kept = (
        slice(max(lengths.of(name, axis))) if axis in editing.OF_TEXT else slice(None) for axis in places.axes(name)
    )
    return array[tuple(kept)].astype(np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _run(
    model: Model, record: frozenset[str], params: Params, batch: Batch, changes: Changes
) -> tuple[Float[Array, "texts length vocabulary"], dict[str, Array]]:
    features, recorded = models.run(model, params, batch, record, changes)
    return models.project(model, params, features), recorded


@partial(jax.jit, static_argnums=(0, 1))
def _features(
    model: Model, record: frozenset[str], params: Params, batch: Batch
) -> tuple[Float[Array, "texts length width"], dict[str, Array]]:
    return models.run(model, params, batch, record)


def _read(
    model: Model, params: Params, features: Array, read: Int[Array, " texts"]
) -> Float[Array, "texts vocabulary"]:
    """The logits at one place of each text."""
    return models.project(model, params, jnp.take_along_axis(features, read[:, None, None], axis=1)[:, 0])


@partial(jax.jit, static_argnums=(0, 1))
def _sweep(
    model: Model,
    own: frozenset[tuple[str, int]],
    params: Params,
    batch: Batch,
    read: Int[Array, " texts"],
    changes: Changes,
    measure: Measure,
) -> Float[Array, "edits texts"]:
    def one(changes: Changes) -> Array:
        features, _ = models.run(model, params, batch, changes=changes)
        return measure(_read(model, params, features, read))

    axes: Any = {
        name: tuple(
            Change(change.function, 0, 0 if (name, number) in own else None) for number, change in enumerate(several)
        )
        for name, several in changes.items()
    }
    return jax.vmap(one, in_axes=(axes,))(changes)


@partial(jax.jit, static_argnums=0)
def _gradients(
    model: Model,
    params: Params,
    batch: Batch,
    read: Int[Array, " texts"],
    changes: Changes,
    nothing: Mapping[str, Array],
    measure: Measure,
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """The derivative by what is added, which is nothing."""

    def total(added: Mapping[str, Array]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        sums = {
            name: (*changes.get(name, ()), Change(editing.added, jnp.ones_like(x, bool), x))
            for name, x in added.items()
        }
        features, recorded = models.run(model, params, batch, frozenset(added), {**changes, **sums})
        measured = measure(_read(model, params, features, read))
        return jnp.sum(measured), (measured, recorded)

    (_, (measured, recorded)), slopes = jax.value_and_grad(total, has_aux=True)(nothing)
    return measured, recorded, slopes


logits = jax.jit(models.logits, static_argnums=0)
read_out = jax.jit(models.read_out, static_argnums=0)
