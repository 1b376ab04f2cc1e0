"""Log-probabilities of many requests at once.

Examples are packed into rows of a few static shapes, so that little is padding and nothing is compiled after the first
batch of each. Where several have the same beginning (the options of one question), a row has it once, as a shared
prefix that every branch sees; the same holds for what an encoder reads. Of the features only those at scored places
meet the output layer, and a batch comes back to the host as one array, while the next one is already running.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from research import config, models, sharding
from research.inference import batching
from research.inference.batching import Step
from research.inference.prompting import PromptFormat, scoring_examples
from research.inference.requests import Scorable, Score
from research.models import Intervals, Params
from research.objectives import Batch, Example, reading, stack
from research.objectives import row as pack
from research.objectives.prompts import ScoringExamples
from research.sharding import Layout

TOKENS = 65_536  # places that a batch holds
TOKENS_ON_CPU = 4096
LOGITS = 1 << 25  # numbers that exist at once


class ScoredBatch(NamedTuple):
    """What one batch completed."""

    scores: list[tuple[int, Score | None]]  # with the number of the request
    share: float  # of the whole work that is now done


class PlaceScores(NamedTuple):
    """The scored places of an example, in order."""

    log_probabilities: Float[np.ndarray, " places"]
    greedy: Bool[np.ndarray, " places"]  # whether the target is the most probable token
    allowed: Bool[np.ndarray, " places"]  # the same, among the tokens that are not forbidden


def score(
    model: config.Model,
    params: Params,
    prompt_format: PromptFormat,
    requests: Sequence[Scorable],
    forbidden: Sequence[int] = (),
    layout: Layout | None = None,
    tokens: int | None = None,
) -> Iterator[ScoredBatch]:
    """Scores of the requests, in the order in which they are ready; None for one that the model has no answer to.

    Args:
      model: resolved.
      params: its parameters, which are put on the layout if they are not there.
      prompt_format: how it is asked.
      requests: all at once, so that they can be sorted.
      forbidden: tokens that `Score.greedy_allowed` leaves out at the first place.
      layout: devices over which batches are split; None: all, each with a whole copy of the parameters.
      tokens: places that a batch holds; None: what suits the platform.

    Raises:
      InputError: if a text to be scored is longer than the model, or cannot be encoded.
    """
    asked = scoring_examples(prompt_format, requests)
    examples = [example for one in asked if one is not None for example in one.examples]
    owners = [number for number, one in enumerate(asked) if one is not None for _ in one.examples]
    firsts = np.concatenate([[0], np.cumsum([0 if one is None else len(one.examples) for one in asked])])
    found: list[PlaceScores | None] = [None] * len(examples)
    waiting = np.bincount(np.array(owners, int), minlength=len(requests))

    def finished(number: int) -> tuple[int, Score | None]:
        one = asked[number]
        parts = [part for part in found[firsts[number] : firsts[number + 1]] if part is not None]
        return number, None if one is None else _score(prompt_format, requests[number], one, parts)

    at_once = [number for number in range(len(requests)) if waiting[number] == 0]
    if at_once:
        yield ScoredBatch([finished(number) for number in at_once], 0.0)
    for share, results in score_examples(model, params, examples, forbidden, layout, tokens):
        complete = []
        for number, result in results:
            found[number] = result
            waiting[owners[number]] -= 1
            if waiting[owners[number]] == 0:
                complete.append(owners[number])
        yield ScoredBatch([finished(number) for number in complete], share)


def _score(
    prompt_format: PromptFormat, request: Scorable, asked: ScoringExamples, found: Sequence[PlaceScores]
) -> Score:
    """Puts the examples of a request together. Tokens that nothing precedes count as uniformly distributed."""
    uniform = np.full(asked.unscored, -math.log(prompt_format.tokenizer.size), np.float32)
    parts = [np.concatenate([getattr(one, name) for one in found] or [np.zeros(0)]) for name in PlaceScores._fields]
    log_probabilities, greedy, allowed = parts
    return Score(
        prompt_format.kind,
        np.concatenate([uniform, log_probabilities]).astype(np.float32),
        not asked.unscored and bool(greedy.all()),
        len(request.text.encode()),
        asked.truncated,
        not asked.unscored and bool(allowed[:1].all() and greedy[1:].all()),
    )


def score_examples(
    model: config.Model,
    params: Params,
    examples: Sequence[Example],
    forbidden: Sequence[int] = (),
    layout: Layout | None = None,
    tokens: int | None = None,
) -> Iterator[tuple[float, list[tuple[int, PlaceScores]]]]:
    """Scores the places of positive weight of each example. Yields the share of the work that is done, and examples
    with their numbers. See `score` for the arguments."""
    layout = layout or _everywhere(model)
    params = _placed(model, params, layout)
    layout = layout.whole_rows
    on_cpu = layout.mesh.devices.flat[0].platform == "cpu"
    budget = tokens or (TOKENS_ON_CPU if on_cpu else TOKENS)
    ahead = 0 if on_cpu else 1  # batches under way while results are read; on CPUs, two would wait for the same cores
    banned = np.zeros(model.vocabulary, bool)
    banned[list(forbidden)] = True
    branching = model.positions.kind != "relative" and not model.attention.window  # these count places of the row
    causal = all(bool((np.diff(example.levels) > 0).all()) for example in examples)
    steps = batching.plan(examples, budget, layout.extent("batch"), branching)
    whole, done = sum(map(batching.cost, steps)), 0
    running: deque[tuple[Array, Step, int]] = deque()
    for step in steps:
        read = _put(layout, _packed(step, examples))
        with sharding.logical_rules(layout):
            output = score_rows(model, layout.replicated, causal, params, *read, banned)
        running.append((output, step, done := done + batching.cost(step)))
        if len(running) > ahead:
            yield _finished(*running.popleft(), whole, examples)
    while running:
        yield _finished(*running.popleft(), whole, examples)


def _finished(
    output: Float[Array, "rows scored 3"], step: Step, done: int, whole: int, examples: Sequence[Example]
) -> tuple[float, list[tuple[int, PlaceScores]]]:
    """Waits for a batch, and gives each example its places."""
    found = []
    for of_row, row in zip(sharding.gather_to_host(output), step.rows, strict=True):
        begin = 0
        for member in (member for group in row for member in group.members):
            scored = of_row[begin : (begin := begin + int((examples[member].weights > 0).sum()))]
            found.append((member, PlaceScores(scored[:, 0], scored[:, 1] > 0, scored[:, 2] > 0)))
    return done / whole, found


class PackedBatch(NamedTuple):
    """A batch as arrays. Intervals are [start, end), in numbers of the row."""

    places: Int[np.ndarray, "rows 8 length"]  # token, position, intervals that it sees: its own, shared prefix, source
    scored: Int[np.ndarray, "rows 3 scored"]  # of what is scored: place, target, whether it is the first of its example
    source: Batch | None


def _packed(step: Step, examples: Sequence[Example]) -> PackedBatch:
    shape, order = step.shape, np.arange(step.shape.length)
    places = np.zeros((len(step.rows), 8, shape.length), np.int32)
    places[:, 2:4] = np.stack([order, order + 1])  # padding sees itself
    places[:, 7] = 1
    scored = np.zeros((len(step.rows), 3, shape.scored), np.int32)
    sources = []
    for row, place, scored_of_row in zip(step.rows, places, scored, strict=True):
        at, used, read = 0, 0, 0
        for group in row:
            first, shared, begin = examples[group.members[0]], group.shared, at
            prefix = slice(begin, at := begin + shared)
            place[:4, prefix] = _interval(first, 0, shared, begin)
            for member in group.members:
                one = examples[member]
                own = slice(at, at := at + len(one.tokens) - shared)
                place[:4, own] = _interval(one, shared, len(one.tokens), own.start)
                place[4:6, own] = [[begin], [begin + shared]]
                found = np.flatnonzero(one.weights > 0)
                some = slice(used, used := used + len(found))
                scored_of_row[0, some] = found + np.where(found < shared, begin, own.start - shared)
                scored_of_row[1, some] = one.targets[found]
                scored_of_row[2, some.start] = 1
            if first.source is not None:
                place[6:, begin:at] = [[read], [read := read + len(first.source)]]
        if shape.source:
            read_by = [examples[group.members[0]].source for group in row]
            sources.append(pack([reading(one, True) for one in read_by if one is not None], shape.source))
    return PackedBatch(places, scored, stack(sources) if sources else None)


def _interval(one: Example, begin: int, end: int, at: int) -> Int[np.ndarray, "4 places"]:
    """Token, position and seen interval of some places of an example, which a row has from `at` on."""
    seen = np.searchsorted(one.levels, one.levels[begin:end], side="right") - begin
    return np.stack([one.tokens[begin:end], np.arange(begin, end), np.full(end - begin, at), at + seen])


def _put(layout: Layout, arrays: Any) -> Any:
    """Arrays on the devices, split along their first axis."""
    return sharding.device_put_global(arrays, layout.sharding(("batch",)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def score_rows(
    config: config.Model,
    everywhere: NamedSharding,
    causal: bool,
    params: Params,
    places: Int[Array, "rows 8 length"],
    scored: Int[Array, "rows 3 scored"],
    source: Batch | None,
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "rows scored 3"]:
    tokens, positions, *seen = jnp.moveaxis(places, 1, 0)
    start, end, prefix_start, prefix_end, source_start, source_end = seen
    read = None if source is None else (models.encode(config, params, source), Intervals(source_start, source_end))
    visible = Intervals(start, end, (prefix_start, prefix_end), causal)
    features = models.features(config, params, tokens, positions, visible, read)
    scores = _place_scores(config, params, features, scored, banned)
    return jax.lax.with_sharding_constraint(scores, everywhere)  # so that every process can read it


def _place_scores(
    config: config.Model,
    params: Params,
    features: Float[Array, "rows length width"],
    scored: Int[Array, "rows 3 scored"],
    banned: Bool[Array, " vocabulary"],
) -> Float[Array, "rows scored 3"]:
    """Log-probability, whether greedy, whether greedy without what is banned at the first place. Only scored places
    meet the output layer."""
    place, targets, number = jnp.moveaxis(scored, 1, 0)
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

    rows, places = targets.shape
    size = max(1, LOGITS // (rows * config.vocabulary))
    if places <= size:
        return some((features, targets, first))
    count = -(-places // size)
    padded = [
        jnp.pad(x, [(0, 0), (0, count * size - places)] + [(0, 0)] * (x.ndim - 2)) for x in (features, targets, first)
    ]
    chunks = tuple(jnp.moveaxis(x.reshape(rows, count, size, *x.shape[2:]), 1, 0) for x in padded)
    return jnp.moveaxis(jax.lax.map(some, chunks), 0, 1).reshape(rows, count * size, 3)[:, :places]


@functools.cache
def _everywhere(model: config.Model) -> Layout:
    """Batches over all devices, a whole copy of the parameters on each."""
    return sharding.layout(config.Mesh(), model)


def _placed(model: config.Model, params: Params, layout: Layout) -> Any:
    """The parameters on the devices of the layout; as they are if they are on its mesh already."""
    sharding_ = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if isinstance(sharding_, NamedSharding) and sharding_.mesh == layout.mesh:
        return params
    return sharding.device_put_global(params, sharding.parameter_shardings(layout, models.axes(model)))
