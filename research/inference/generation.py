"""Generation: one compiled loop of sampling and stopping over a key-value cache, for batches of prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from research import models, sharding
from research.config import Model
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.models import Caches, Intervals, Params
from research.objectives import Batch
from research.sharding import Layout, gather_to_host

STOP_CHECK = 16  # tokens between looks for stop strings, which are a matter of text


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when to stop."""

    tokens: int = 64  # at most so many new ones
    least: int = 0  # new ones before the text may end by itself
    temperature: float = 0.0  # 0: always the most probable token
    top_k: int = 0  # choose among so many most probable tokens; 0: among all
    top_p: float = 1.0  # choose among the most probable tokens that together have this probability
    seed: int = 0  # the same seed, prompt and sample number give the same text, whatever else is in the batch
    stop: tuple[str, ...] = ()  # the text ends before the first of these

    def __post_init__(self) -> None:
        """Raises InputError if a number is out of its range, or a stop string would end every text."""
        rules = (
            (self.tokens >= 1, "tokens", self.tokens, "at least 1"),
            (self.least >= 0, "least", self.least, "at least 0"),
            (0 <= self.temperature < math.inf, "temperature", self.temperature, "finite and at least 0"),
            (self.top_k >= 0, "top_k", self.top_k, "at least 0"),
            (0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1"),
            (
                not isinstance(self.stop, str) and all(self.stop),
                "stop",
                self.stop,
                "texts in a tuple, none of them empty",
            ),
        )
        wrong = [f"{name}: {value!r} must be {needed}" for holds, name, value, needed in rules if not holds]
        if wrong:
            raise InputError("; ".join(wrong))


class Settings(TypedDict, total=False):
    """The fields of `Sampling`, as keyword arguments."""

    tokens: int
    least: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: tuple[str, ...]


class Prompt(NamedTuple):
    """What is given. Tokens before `seen_by_all` see each other from both sides, the others what precedes them."""

    tokens: Sequence[int]  # at least one
    seen_by_all: int = 0
    source: Sequence[int] | None = None  # what the encoder of an encoder-decoder reads
    before: Sequence[int] = ()  # what the new text follows: the first word after nothing has no space before it
    sample: int = 0  # number of the sample, for several of one prompt


class Rule(NamedTuple):
    """What of `Sampling` is compiled; the other numbers can change without."""

    greedy: bool
    top_k: int
    nucleus: bool


class _Loop(NamedTuple):
    """Rows of tokens that grow together. A row begins where its prompt begins, such that all prompts end at the same
    slot, and so do the keys of the cache."""

    tokens: Int[Array, "batch keys"]
    slot: Int[Array, ""]  # of the next token
    length: Int[Array, " batch"]  # of each row's document
    done: Bool[Array, " batch"]
    scores: Float[Array, "batch vocabulary"]  # logits of the next token
    cache: Caches
    keys: PRNGKeyArray


def generate(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    ends: Sequence[int],
    layout: Layout | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, without the one that ended them.

    Args:
      model: resolved.
      params: its parameters.
      tokenizer: to look for stop strings, and to know the ordinary tokens: only those and `ends` are generated.
      prompts: of any lengths; all with a source, or none.
      sampling: how.
      ends: tokens that end a row.
      layout: over which the parameters are split, and keys and values with them; None: they are on one device.

    Raises:
      InputError: if a prompt is empty, or has as many tokens as the model has positions, or more. New tokens end
        where those do.
    """
    if not all(prompt.tokens for prompt in prompts):
        raise InputError("an empty prompt: this tokenizer has no token that begins a document")
    longest = max(len(prompt.tokens) for prompt in prompts)
    positions = places(model)
    most = longest + sampling.tokens if positions is None else positions
    if longest >= most:
        raise InputError(f"a prompt of {longest} tokens leaves no room for new ones in the model's {most} positions")
    width = min(bucket(longest), most)
    tokens = _padded([prompt.tokens for prompt in prompts], width, at_the_end=True)
    lengths = np.array([len(prompt.tokens) for prompt in prompts], np.int32)
    seen_by_all = np.array([prompt.seen_by_all for prompt in prompts], np.int32)
    source = _source(prompts, positions)
    possible = np.zeros(model.vocabulary, bool)
    possible[: tokenizer.size] = True
    possible[list(tokenizer.vocabulary.special)] = False
    possible[list(ends)] = True
    stops = np.zeros(model.vocabulary, bool)
    stops[list(ends)] = True
    rule = Rule(sampling.temperature == 0, sampling.top_k, sampling.top_p < 1)
    room = bucket(width + sampling.tokens)
    params = models.for_decoding(model, params)
    whole = None if layout is None else layout.whole_batch  # there may be fewer prompts than devices
    with sharding.logical_rules(whole):
        loop = prefill(model, room, params, tokens, lengths, seen_by_all, source, _keys(prompts, sampling.seed))
    begin = width - lengths
    seen_source = None if source is None else jnp.asarray((source.segments > 0).sum(axis=1))
    step = STOP_CHECK if sampling.stop else sampling.tokens
    for new in range(step, sampling.tokens + step, step):
        limit = np.minimum(lengths + min(new, sampling.tokens), most)
        numbers = sampling.temperature, sampling.top_p, lengths + sampling.least, limit, begin, possible, stops
        with sharding.logical_rules(whole):
            loop = extend(model, rule, params, loop, *numbers, seen_source)
        rows = _new_tokens(loop, width, lengths, ends)
        texts = [text(tokenizer, *each) if sampling.stop else "" for each in zip(prompts, rows, strict=True)]
        done = gather_to_host(loop.done) | [any(stop in one for stop in sampling.stop) for one in texts]
        loop = loop._replace(done=jnp.asarray(done))
        if done.all():
            break
    return rows


def text(tokenizer: Tokenizer, prompt: Prompt, row: Sequence[int]) -> str:
    """What the new tokens of a prompt say."""
    return tokenizer.decode([*prompt.before, *row])[len(tokenizer.decode(prompt.before)) :]


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    places = [place for place in (text.find(each) for each in stop) if place >= 0]
    return text[: min(places)] if places else text


def bucket(length: int) -> int:
    """The next of few lengths, so that few programs are compiled."""
    size = 16
    while size < length:
        size *= 2
    return size


def places(model: Model) -> int | None:
    """The longest row that a model can read; None: any."""
    return model.positions.max_length - model.positions.offset if model.positions.kind == "learned" else None


@partial(jax.jit, static_argnums=(0, 1))
def prefill(
    model: Model,
    room: int,
    params: Params,
    tokens: Int[Array, "batch width"],
    lengths: Int[Array, " batch"],
    seen_by_all: Int[Array, " batch"],
    source: Batch | None,
    keys: PRNGKeyArray,
) -> _Loop:
    """Reads the prompts, all at once. What is before a prompt in its row sees itself, and is seen by nothing else."""
    batch, width = tokens.shape
    slots = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    begin = width - lengths[:, None]
    seen = Intervals(jnp.minimum(begin, slots), jnp.maximum(slots + 1, begin + seen_by_all[:, None]))
    read = None
    if source is not None:
        ends = jnp.broadcast_to((source.segments > 0).sum(axis=1)[:, None], tokens.shape)
        read = models.encode(model, params, source), Intervals(jnp.zeros_like(ends), ends)
    cache = models.empty_cache(model, params, batch, room)
    features, cache = models.decode(model, params, tokens, jnp.maximum(slots - begin, 0), 0, seen, cache, read)
    scores = models.project(model, params, features[:, -1])
    rows = jnp.pad(tokens, ((0, 0), (0, room - width)))
    return _Loop(rows, jnp.full((), width, jnp.int32), lengths, jnp.zeros(batch, bool), scores, cache, keys)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def extend(
    model: Model,
    rule: Rule,
    params: Params,
    loop: _Loop,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    endless: Int[Array, " batch"],
    limit: Int[Array, " batch"],
    begin: Int[Array, " batch"],
    possible: Bool[Array, " vocabulary"],
    stops: Bool[Array, " vocabulary"],
    seen_source: Int[Array, " batch"] | None,
) -> _Loop:
    """Adds tokens until every row is done or has reached its limit; none ends while its length is below `endless`."""

    def going(loop: _Loop) -> Any:
        return jnp.any(~loop.done & (loop.length < limit))

    def add(loop: _Loop) -> _Loop:
        may_end = (loop.length >= endless)[:, None]
        scores = jnp.where(possible & (may_end | ~stops), loop.scores, -jnp.inf)
        keys = jax.vmap(jax.random.fold_in)(loop.keys, loop.length)
        chosen = choose(scores, keys, rule, temperature, top_p)
        active = ~loop.done & (loop.length < limit)
        token = chosen[:, None]
        position = jnp.where(active, loop.length, 0)[:, None]  # a row at rest never goes on, so it may say anything
        seen = Intervals(begin[:, None], jnp.full_like(token, loop.slot + 1))
        read = None if seen_source is None else (None, Intervals(jnp.zeros_like(token), seen_source[:, None]))
        features, cache = models.decode(model, params, token, position, loop.slot, seen, loop.cache, read)
        return _Loop(
            jax.lax.dynamic_update_slice_in_dim(loop.tokens, token, loop.slot, axis=1),
            loop.slot + 1,
            loop.length + active,
            loop.done | (active & stops[chosen]),
            models.project(model, params, features[:, 0]),
            cache,
            loop.keys,
        )

    return jax.lax.while_loop(going, add, loop)


def choose(
    scores: Float[Array, "batch vocabulary"],
    keys: PRNGKeyArray,
    rule: Rule,
    temperature: Float[Array, ""] | float,
    top_p: Float[Array, ""] | float,
) -> Int[Array, " batch"]:
    """A token of each row: the most probable one, or a sample among the `top_k` most probable ones (all, if 0) and of
    those the fewest that together have the probability `top_p` (nucleus sampling, Holtzman et al. 2020)."""
    if rule.greedy:
        return jnp.argmax(scores, axis=-1)
    scores = scores / temperature
    if rule.top_k:
        least = jax.lax.top_k(scores, min(rule.top_k, scores.shape[-1]))[0][:, -1:]
        scores = jnp.where(scores < least, -jnp.inf, scores)
    if rule.nucleus:
        ordered = jnp.sort(scores, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        scores = jnp.where(scores < least, -jnp.inf, scores)
    return jax.vmap(jax.random.categorical)(keys, scores)


def _keys(prompts: Sequence[Prompt], seed: int) -> PRNGKeyArray:
    """A key for each prompt, which depends on the prompt and the number of its sample alone; not on its place in the
    batch, and another for each, so that prompts of one length do not share their luck."""
    read = [np.array([*(prompt.source or ()), -1, *prompt.tokens], np.int32) for prompt in prompts]
    hashes = np.array([xxhash.xxh32_intdigest(one.tobytes()) for one in read], np.uint32)
    samples = np.array([prompt.sample for prompt in prompts], np.uint32)
    fold = jax.vmap(jax.random.fold_in)
    return fold(jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(hashes), samples)


def _padded(rows: Sequence[Sequence[int]], width: int, at_the_end: bool = False) -> np.ndarray:
    out = np.zeros((len(rows), width), np.int32)
    for number, row in enumerate(rows):
        begin = width - len(row) if at_the_end else 0
        out[number, begin : begin + len(row)] = row
    return out


def _source(prompts: Sequence[Prompt], positions: int | None) -> Batch | None:
    sources = [prompt.source for prompt in prompts if prompt.source is not None]
    if not sources:
        return None
    longest = max(map(len, sources))
    if positions is not None and longest > positions:
        raise InputError(f"an input of {longest} tokens is longer than the model's {positions} positions")
    tokens = _padded(sources, bucket(longest))
    place = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    segments = (place < np.array([len(source) for source in sources])[:, None]).astype(np.int32)
    zeros = np.zeros_like(tokens)
    return Batch(tokens, zeros, zeros.astype(np.float32), place * segments, segments, zeros)


def _new_tokens(loop: _Loop, width: int, lengths: np.ndarray, ends: Sequence[int]) -> list[list[int]]:
    """Those of each row after its prompt, which ends at the slot `width`."""
    tokens, made = gather_to_host(loop.tokens), gather_to_host(loop.length) - lengths
    rows = [row[width : width + count].tolist() for row, count in zip(tokens, made, strict=True)]
    return [row[:-1] if row and row[-1] in ends else row for row in rows]
