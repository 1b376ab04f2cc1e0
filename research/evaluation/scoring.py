"""Log-probabilities of many requests at once.

Examples are laid into a few static shapes, so that little is padding and nothing is compiled after the first batch of
each. Where several have the same beginning (the options of one question), it is computed once, and its keys and values,
or what an encoder made of it, are shared. Of the features only those at scored places meet the output layer, and a
batch comes back to the host as one array, while the next one is already running.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from research import config, models
from research.data.tokenizers import Tokenizer
from research.evaluation import batching
from research.evaluation.asking import Asked, Manner, ask
from research.evaluation.batching import Beginnings, Rests, Singles
from research.evaluation.requests import Scorable, Score
from research.models import Cache, Params, Visible
from research.objectives import Batch, Example, reading, row, stack
from research.training import sharding
from research.training.sharding import Layout

TOKENS = 65_536  # places that a batch holds
TOKENS_ON_CPU = 4096
LOGITS = 1 << 25  # numbers that exist at once


class Model(Protocol):
    """What scoring needs of a language model."""

    @property
    def config(self) -> config.Model: ...
    @property
    def params(self) -> Params: ...
    @property
    def tokenizer(self) -> Tokenizer: ...


class Done(NamedTuple):
    """What one batch completed."""

    scores: list[tuple[int, Score | None]]  # with the number of the request
    share: float  # of the whole work that is now done


class Judged(NamedTuple):
    """The scored places of an example, in order."""

    log_probabilities: Float[np.ndarray, " places"]
    greedy: Bool[np.ndarray, " places"]  # whether the target is the most probable token
    allowed: Bool[np.ndarray, " places"]  # the same, among the tokens that are not forbidden


def score(
    model: Model,
    manner: Manner,
    requests: Sequence[Scorable],
    forbidden: Sequence[int] = (),
    layout: Layout | None = None,
    tokens: int | None = None,
) -> Iterator[Done]:
    """Scores of the requests, in the order in which they are ready; None for one that the model has no answer to.

    Args:
      model: its parameters are put on the layout if they are not there.
      manner: how it is asked.
      requests: all at once, so that they can be sorted.
      forbidden: tokens that `Score.greedy_allowed` leaves out at the first place.
      layout: devices over which batches are split; None: all, each with a whole copy of the parameters.
      tokens: places that a batch holds; None: what suits the platform.

    Raises:
      InputError: if a text to be scored is longer than the model, or cannot be encoded.
    """
    asked = ask(manner, requests)
    examples = [example for one in asked if one is not None for example in one.examples]
    owners = [number for number, one in enumerate(asked) if one is not None for _ in one.examples]
    firsts = np.concatenate([[0], np.cumsum([0 if one is None else len(one.examples) for one in asked])])
    judged: list[Judged | None] = [None] * len(examples)
    waiting = np.bincount(np.array(owners, int), minlength=len(requests))

    def finished(number: int) -> tuple[int, Score | None]:
        one = asked[number]
        parts = [part for part in judged[firsts[number] : firsts[number + 1]] if part is not None]
        return number, None if one is None else _score(manner, requests[number], one, parts)

    at_once = [number for number in range(len(requests)) if waiting[number] == 0]
    if at_once:
        yield Done([finished(number) for number in at_once], 0.0)
    for share, results in judge(model, examples, forbidden, layout, tokens):
        complete = []
        for number, result in results:
            judged[number] = result
            waiting[owners[number]] -= 1
            if waiting[owners[number]] == 0:
                complete.append(owners[number])
        yield Done([finished(number) for number in complete], share)


def _score(manner: Manner, request: Scorable, asked: Asked, judged: Sequence[Judged]) -> Score:
    """Puts the examples of a request together. Tokens that nothing precedes count as uniformly distributed."""
    uniform = np.full(asked.unscored, -math.log(manner.tokenizer.size), np.float32)
    parts = [np.concatenate([getattr(one, name) for one in judged] or [np.zeros(0)]) for name in Judged._fields]
    log_probabilities, greedy, allowed = parts
    return Score(
        manner.kind,
        np.concatenate([uniform, log_probabilities]).astype(np.float32),
        not asked.unscored and bool(greedy.all()),
        len(request.text.encode()),
        asked.truncated,
        not asked.unscored and bool(allowed[:1].all() and greedy[1:].all()),
    )


def judge(
    model: Model,
    examples: Sequence[Example],
    forbidden: Sequence[int] = (),
    layout: Layout | None = None,
    tokens: int | None = None,
) -> Iterator[tuple[float, list[tuple[int, Judged]]]]:
    """Judges the places of positive weight of each example. Yields the share of the work that is done, and examples
    with their numbers. See `score` for the arguments."""
    layout = layout or _everywhere(model.config)
    params = _placed(model.config, model.params, layout)
    layout = layout.whole_rows
    on_cpu = layout.mesh.devices.flat[0].platform == "cpu"
    budget = tokens or (TOKENS_ON_CPU if on_cpu else TOKENS)
    ahead = 0 if on_cpu else 1  # batches under way while results are read; on CPUs, two would wait for the same cores
    banned = np.zeros(model.config.vocabulary, bool)
    banned[list(forbidden)] = True
    steps = batching.plan(examples, budget, layout.extent("batch"))
    whole, done = sum(map(batching.cost, steps)), 0
    running: deque[tuple[Array, list[int | None], int]] = deque()
    begun: Any = None
    for step in steps:
        done += batching.cost(step)
        if isinstance(step, Beginnings):
            begun = _begin(model.config, params, layout, step, examples)
            continue
        if isinstance(step, Rests):
            output = _continue(model.config, params, layout, banned, begun, step, examples)
            rows = [None if row is None else row.example for row in step.rows]
        else:
            output, rows = _single(model.config, params, layout, banned, step, examples), step.rows
        running.append((output, rows, done))
        if len(running) > ahead:
            yield _finished(*running.popleft(), whole, examples)
    while running:
        yield _finished(*running.popleft(), whole, examples)


def _finished(
    output: Float[Array, "rows scored 3"],
    rows: Sequence[int | None],
    done: int,
    whole: int,
    examples: Sequence[Example],
) -> tuple[float, list[tuple[int, Judged]]]:
    """Waits for a batch, and gives each example its places."""
    places = sharding.fetch(output)
    found = []
    for of_row, number in zip(places, rows, strict=True):
        if number is not None:
            scored = of_row[: int((examples[number].weights > 0).sum())]
            found.append((number, Judged(scored[:, 0], scored[:, 1] > 0, scored[:, 2] > 0)))
    return done / whole, found


def _single(
    config: config.Model,
    params: Params,
    layout: Layout,
    banned: Bool[np.ndarray, " vocabulary"],
    step: Singles,
    examples: Sequence[Example],
) -> Float[Array, "rows scored 3"]:
    """Starts the computation of whole examples."""
    shape, several = step.shape, [[] if number is None else [examples[number]] for number in step.rows]
    batch = stack([row(each, shape.length, shape.source or None) for each in several])
    spots = _spots([(0, each) for each in several], shape.scored)
    with sharding.logical_rules(layout):
        return _score_whole(config, layout.replicated, params, *_put(layout, (batch, spots)), banned)


def _begin(
    config: config.Model, params: Params, layout: Layout, step: Beginnings, examples: Sequence[Example]
) -> Cache | Float[Array, "rows source width"]:
    """Starts the computation of beginnings: of a decoder's keys and values, or of what an encoder makes of sources."""
    firsts = [None if group is None else examples[group.members[0]] for group in step.rows]
    with sharding.logical_rules(layout):
        if config.encoder_depth:
            read = [[] if one is None or one.source is None else [reading(one.source, True)] for one in firsts]
            return _encode(config, params, _put(layout, stack([row(each, step.size) for each in read])))
        places = _nowhere(len(firsts), step.size, step.size)
        for number, (group, one) in enumerate(zip(step.rows, firsts, strict=True)):
            if group is not None and one is not None:
                places[number, :, : group.shared] = _places(one)[:, : group.shared]
        return _begin_decoding(config, params, _put(layout, places))


def _continue(
    config: config.Model,
    params: Params,
    layout: Layout,
    banned: Bool[np.ndarray, " vocabulary"],
    begun: Cache | Float[Array, "beginnings source width"],
    step: Rests,
    examples: Sequence[Example],
) -> Float[Array, "rows scored 3"]:
    """Starts the computation of what follows beginnings."""
    shape, parts = step.shape, layout.extent("batch")
    several = [(0, []) if rest is None else (rest.first, [examples[rest.example]]) for rest in step.rows]
    kept = 0 if config.encoder_depth else step.size
    places = _nowhere(len(several), shape.length, kept + shape.length)
    sources = np.ones(len(several), np.int32)
    for number, (first, each) in enumerate(several):
        for one in each:
            places[number, :, : len(one.tokens) - first] = _places(one)[:, first:]
            sources[number] = 1 if one.source is None else len(one.source)
    owners = np.array([0 if rest is None else rest.owner for rest in step.rows], np.int32).reshape(parts, -1)
    read = _put(layout, (owners, places, sources, _spots(several, shape.scored)))
    with sharding.logical_rules(layout):
        return _score_rest(config, layout.replicated, params, begun, *read, banned)


def _put(layout: Layout, arrays: Any) -> Any:
    """Arrays on the devices, split along their first axis."""
    return jax.device_put(arrays, layout.sharding(("batch",)))


def _spots(several: Sequence[tuple[int, Sequence[Example]]], scored: int) -> Int[np.ndarray, "rows 3 scored"]:
    """Of each scored place of a row: where it is, its target, whether it is the first one. A row has no or one example,
    of which it shows what is behind a first place."""
    spots = np.zeros((len(several), 3, scored), np.int32)
    for number, (first, each) in enumerate(several):
        for one in each:
            places = np.flatnonzero(one.weights > 0)
            spots[number, 0, : len(places)] = places - first
            spots[number, 1, : len(places)] = one.targets[places]
            spots[number, 2, 0] = 1
    return spots


def _places(example: Example) -> Int[np.ndarray, "3 length"]:
    """Token, slot in the cache, end of what it sees."""
    return np.stack([example.tokens, np.arange(len(example.tokens)), batching.ends(example.levels)])


def _nowhere(rows: int, length: int, slots: int) -> Int[np.ndarray, "rows 3 length"]:
    """As `_places`, of padding: its slot is outside of a cache of `slots`, so that it is kept nowhere."""
    return np.tile(np.array([[0], [slots], [1]], np.int32), (rows, 1, length))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_whole(
    config: config.Model,
    everywhere: NamedSharding,
    params: Params,
    batch: Batch,
    spots: Int[Array, "rows 3 scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "rows scored 3"]:
    judged = _judge(config, params, models.hidden(config, params, batch), spots, banned)
    return jax.lax.with_sharding_constraint(judged, everywhere)  # so that every process can read it


_encode = jax.jit(models.encode, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _begin_decoding(config: config.Model, params: Params, places: Int[Array, "rows 3 length"]) -> Cache:
    tokens, slots, end = jnp.moveaxis(places, 1, 0)
    rows, size = tokens.shape
    cache = models.empty_cache(config, rows, size, params["embedding"].dtype)
    return models.decode(config, params, tokens, slots, Visible(jnp.zeros_like(end), end), cache)[1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_rest(
    config: config.Model,
    everywhere: NamedSharding,
    params: Params,
    begun: Cache | Float[Array, "beginnings source width"],
    owners: Int[Array, "parts each"],
    places: Int[Array, "rows 3 length"],
    sources: Int[Array, " rows"],
    spots: Int[Array, "rows 3 scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "rows scored 3"]:
    tokens, slots, end = jnp.moveaxis(places, 1, 0)
    rows, length = tokens.shape

    def own(x: Array, axis: int) -> Array:
        """The beginning of each row. Rows are in the same part of the batch as it, so nothing moves between devices."""
        parts = x.reshape(*x.shape[:axis], len(owners), -1, *x.shape[axis + 1 :])
        taken = jax.vmap(lambda part, owner: jnp.take(part, owner, axis=axis), (axis, 0), axis)(parts, owners)
        return taken.reshape(*x.shape[:axis], rows, *x.shape[axis + 1 :])

    if isinstance(begun, dict):
        room = [(0, 0), (0, 0), (0, length), (0, 0), (0, 0)]
        cache, encoded = {name: jnp.pad(own(kept, 1), room) for name, kept in begun.items()}, None
    else:
        cache = models.empty_cache(config, rows, length, params["embedding"].dtype)
        seen = Visible(jnp.zeros_like(end), jnp.broadcast_to(sources[:, None], end.shape))
        encoded = own(begun, 0), seen
    features, _ = models.decode(config, params, tokens, slots, Visible(jnp.zeros_like(end), end), cache, encoded)
    return jax.lax.with_sharding_constraint(_judge(config, params, features, spots, banned), everywhere)


def _judge(
    config: config.Model,
    params: Params,
    features: Float[Array, "rows length width"],
    spots: Int[Array, "rows 3 scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "rows scored 3"]:
    """Log-probability, whether greedy, whether greedy without what is banned at the first place. Only scored places
    meet the output layer."""
    place, targets, number = jnp.moveaxis(spots, 1, 0)
    features, first = jnp.take_along_axis(features, place[..., None], axis=1), number > 0

    def some(arguments: tuple[Array, Array, Array]) -> Float[Array, "rows some 3"]:
        features, targets, first = arguments
        logits = models.project(config, params, features)
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        allowed = jnp.where(banned & first[..., None], -jnp.inf, logits)
        log_probability = target - jax.nn.logsumexp(logits, axis=-1)
        return jnp.stack(
            [log_probability, jnp.argmax(logits, axis=-1) == targets, jnp.argmax(allowed, axis=-1) == targets], axis=-1
        )

    rows, scored = targets.shape
    size = max(1, LOGITS // (rows * config.vocabulary))
    if scored <= size:
        return some((features, targets, first))
    count = -(-scored // size)
    padded = [
        jnp.pad(x, [(0, 0), (0, count * size - scored)] + [(0, 0)] * (x.ndim - 2)) for x in (features, targets, first)
    ]
    chunks = tuple(jnp.moveaxis(x.reshape(rows, count, size, *x.shape[2:]), 1, 0) for x in padded)
    return jnp.moveaxis(jax.lax.map(some, chunks), 0, 1).reshape(rows, count * size, 3)[:, :scored]


@functools.cache
def _everywhere(model: config.Model) -> Layout:
    """Batches over all devices, a whole copy of the parameters on each."""
    return sharding.layout(config.Mesh(), model)


def _placed(model: config.Model, params: Params, layout: Layout) -> Any:
    """The parameters on the devices of the layout; as they are if they are on its mesh already."""
    sharding_ = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if isinstance(sharding_, NamedSharding) and sharding_.mesh == layout.mesh:
        return params
    return jax.device_put(params, sharding.parameter_shardings(layout, models.axes(model)))
