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
from research.evaluation.batching import Group, Shape
from research.evaluation.requests import Scorable, Score
from research.models import Params, Visible
from research.objectives import Batch, Example, row, stack
from research.training import sharding
from research.training.sharding import Layout

SHAPES = 4  # programs for single examples, and as many for those with shared beginnings
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
    on_cpu = layout.mesh.devices.flat[0].platform == "cpu"
    budget = tokens or (TOKENS_ON_CPU if on_cpu else TOKENS)
    ahead = 0 if on_cpu else 1  # batches under way while results are read; on CPUs, two would wait for the same cores
    banned = np.zeros(model.config.vocabulary, bool)
    banned[list(forbidden)] = True
    groups = batching.groups(examples)
    plan: list[tuple[Shape, list[Group | None]]] = []
    for shared in (True, False):
        chosen = [group for group in groups if (len(group.members) > 1) == shared]
        shapes = [batching.shape_of(group, examples) for group in chosen]
        for shape, members in batching.classes(shapes, SHAPES) if chosen else []:
            plan += [
                (shape, part) for part in _parts(shape, [chosen[m] for m in members], budget, layout.extent("batch"))
            ]
    work = np.cumsum([shape.computed * len(part) for shape, part in plan])
    running: deque[Array] = deque()
    for number in range(len(plan) + ahead):
        if number < len(plan):
            running.append(_dispatch(model.config, params, layout, banned, *plan[number], examples))
        if number >= ahead:
            part = plan[number - ahead][1]
            yield float(work[number - ahead] / work[-1]), _read(np.asarray(running.popleft()), part, examples)


def _parts(shape: Shape, groups: list[Group], budget: int, devices: int) -> Iterator[list[Group | None]]:
    """Batches of the same number of groups, as even as possible; None fills up the last."""
    most = max(1, budget // shape.kept // devices) * devices
    count = -(-len(groups) // most)
    size = -(-len(groups) // count // devices) * devices
    for start in range(0, len(groups), size):
        part: list[Group | None] = list(groups[start : start + size])
        yield part + [None] * (size - len(part))


def _dispatch(
    config: config.Model,
    params: Params,
    layout: Layout,
    banned: Bool[np.ndarray, " vocabulary"],
    shape: Shape,
    groups: Sequence[Group | None],
    examples: Sequence[Example],
) -> Float[Array, "groups options scored 3"]:
    """Starts the computation of a batch."""
    members = [[examples[n] for n in group.members] if group is not None else [] for group in groups]
    spots = np.zeros((3, len(groups), shape.options, shape.scored), np.int32)  # place in its row, target, whether first
    for g, (group, several) in enumerate(zip(groups, members, strict=True)):
        for k, example in enumerate(several):
            places = np.flatnonzero(example.weights > 0)
            spots[0, g, k, : len(places)] = places - (group.first if group else 0)
            spots[1, g, k, : len(places)] = example.targets[places]
            spots[2, g, k, 0] = 1
    source = None
    if shape.source:
        firsts = [several[:1] for several in members]
        source = stack([row(one, shape.length, shape.source) for one in firsts]).source
    on_devices = functools.partial(jax.device_put, device=layout.sharding(("batch",)))
    with sharding.logical_rules(layout):
        if shape.options == 1:
            batch = stack([row(several, shape.length) for several in members])._replace(source=source)
            read = (on_devices(batch), on_devices(np.moveaxis(spots, 0, 1)), banned)
            return _single(config, layout.replicated, params, *read)
        rows = _rows(shape, groups, members)
        read = (*map(on_devices, (source, *rows, np.moveaxis(spots, 0, 1))), banned)
        return _shared(config, layout.replicated, params, *read)


def _rows(
    shape: Shape, groups: Sequence[Group | None], members: Sequence[Sequence[Example]]
) -> tuple[Int[np.ndarray, "groups 3 context"], Int[np.ndarray, "groups options 3 length"], Int[np.ndarray, " groups"]]:
    """For the shared beginning, and for what follows it: token, slot in the cache, end of what it sees. The slot of
    padding is outside of the cache, so that it is kept nowhere. And how long each source is."""
    nowhere = [[0], [shape.context + shape.length], [1]]
    beginning = np.tile(np.array(nowhere, np.int32), (len(groups), 1, shape.context))
    rest = np.tile(np.array(nowhere, np.int32), (len(groups), shape.options, 1, shape.length))
    sources = np.ones(len(groups), np.int32)
    for g, (group, several) in enumerate(zip(groups, members, strict=True)):
        for k, example in enumerate(several):
            assert group is not None
            size = len(example.tokens)
            three = np.stack([example.tokens, np.arange(size), batching.ends(example.levels)])
            beginning[g, :, : group.shared] = three[:, : group.shared]
            rest[g, k, :, : size - group.first] = three[:, group.first :]
            sources[g] = 1 if example.source is None else len(example.source)
    return beginning, rest, sources


@functools.partial(jax.jit, static_argnums=(0, 1))
def _single(
    config: config.Model,
    everywhere: NamedSharding,
    params: Params,
    batch: Batch,
    spots: Int[Array, "groups 3 1 scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "groups 1 scored 3"]:
    features = models.hidden(config, params, batch)
    picked = jnp.take_along_axis(features, spots[:, 0, 0, :, None], axis=1)
    judged = _judge(config, params, picked, spots[:, 1, 0], spots[:, 2, 0] > 0, banned)[:, None]
    return jax.lax.with_sharding_constraint(judged, everywhere)  # so that every process can read it


@functools.partial(jax.jit, static_argnums=(0, 1))
def _shared(
    config: config.Model,
    everywhere: NamedSharding,
    params: Params,
    source: Batch | None,
    beginning: Int[Array, "groups 3 context"],
    rest: Int[Array, "groups options 3 length"],
    sources: Int[Array, " groups"],
    spots: Int[Array, "groups 3 options scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "groups options scored 3"]:
    groups, options, _, length = rest.shape
    context = beginning.shape[2]

    def each(x: Array) -> Array:  # once for every option
        return jnp.repeat(x, options, axis=0)

    tokens, slots, end = (rest[:, :, i].reshape(groups * options, length) for i in range(3))
    dtype = params["embedding"].dtype
    encoded = None
    if source is not None:
        cache = models.empty_cache(config, groups * options, length, dtype)
        seen = Visible(jnp.zeros_like(end), jnp.broadcast_to(each(sources)[:, None], end.shape))
        encoded = each(models.encode(config, params, source)), seen
    else:
        cache = models.empty_cache(config, groups, context + length, dtype)
        seen = Visible(jnp.zeros_like(beginning[:, 2]), beginning[:, 2])
        _, cache = models.decode(config, params, beginning[:, 0], beginning[:, 1], seen, cache)
        cache = jax.tree.map(lambda x: jnp.repeat(x, options, axis=1), cache)
    features, _ = models.decode(config, params, tokens, slots, Visible(jnp.zeros_like(end), end), cache, encoded)
    place, target, first = (spots[:, i].reshape(groups * options, -1) for i in range(3))
    picked = jnp.take_along_axis(features, place[..., None], axis=1)
    judged = _judge(config, params, picked, target, first > 0, banned).reshape(groups, options, -1, 3)
    return jax.lax.with_sharding_constraint(judged, everywhere)


def _judge(
    config: config.Model,
    params: Params,
    features: Float[Array, "rows scored width"],
    targets: Int[Array, "rows scored"],
    first: Bool[Array, "rows scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "rows scored 3"]:
    """Log-probability, whether greedy, whether greedy without what is banned at the first place."""

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


def _read(
    output: Float[np.ndarray, "groups options scored 3"], groups: Sequence[Group | None], examples: Sequence[Example]
) -> list[tuple[int, Judged]]:
    out = []
    for g, group in enumerate(groups):
        for k, number in enumerate(group.members if group is not None else ()):
            places = output[g, k, : int((examples[number].weights > 0).sum())]
            out.append((number, Judged(places[:, 0], places[:, 1] > 0, places[:, 2] > 0)))
    return out


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
