"""cuDNN's fused attention on NVIDIA GPUs: the documents of a row by their offsets and lengths, without any mask.

cuDNN has a padding mask (each query of a document sees all its keys) and a causal one, each over packed documents. A
document whose first tokens see each other (a prefix) takes both: the padding mask over the prefix, and the causal one
over everything, of which the queries behind the prefix are kept. JAX offers the packed layout only in a private
function, and cuDNN only on Hopper and later.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax._src.cudnn import fused_attention_stablehlo as fused
from jaxtyping import Array, Bool, Float, Int

from research.models.kernels import blocks
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals

DOCUMENTS = 16  # of a row: cuDNN keeps a float per head and query for each
MAX_HEAD_WIDTH = 256
TAKES = f"16 bits, heads of a multiple of 8 up to {MAX_HEAD_WIDTH}, no bias and no shared prefix"


def supported() -> bool:
    """Whether the GPU is a Hopper or newer; where a program is compiled without one, it is meant for one."""
    return float(getattr(jax.devices()[0], "compute_capability", "9.0")) >= 9.0


def fits(query: Array | jax.ShapeDtypeStruct, shared_prefix: bool, biased: bool) -> bool:
    """Whether cuDNN computes this."""
    width = query.shape[-1]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and width % 8 == 0 and width <= MAX_HEAD_WIDTH and not biased and not shared_prefix


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """As `plain.attend`; padding gives zeros where rows are causal.

    Falls back to `blocks`: as a whole, if it does not fit (see `fits`) or scores are capped; and, decided when the
    arrays are there, for a batch with a row of more than `DOCUMENTS` documents, or of documents that are neither seen
    whole, nor causal after a prefix (those of layers with a sliding window are not).
    """
    if softcap or not fits(query, intervals.shared_prefix is not None, bias is not None):
        return blocks.attend(query, key, value, intervals, scale, bias, softcap)
    documents, known = find_documents(intervals, key.shape[1])

    def packed(documents: Documents, _: Intervals, query: Array, key: Array, value: Array) -> Array:
        return _packed(documents, intervals.causal, scale, query, key, value)

    @jax.checkpoint
    def fallback(_: Documents, seen: Intervals, query: Array, key: Array, value: Array) -> Array:
        return blocks.attend(query, key, value, seen, scale, None)

    return lax.cond(known, packed, fallback, documents, intervals, query, key, value)


class Documents(NamedTuple):
    """The documents of each row in their order, `[batch, DOCUMENTS]`; those that a row does not have are empty."""

    query: Int[Array, "batch documents"]  # their first query
    queries: Int[Array, "batch documents"]  # how many
    key: Int[Array, "batch documents"]  # the first key that their queries see
    prefix: Int[Array, "batch documents"]  # how many keys their first query sees
    whole: Bool[Array, "batch documents"]  # all queries see the same keys; else they are causal after the prefix
    of_query: Int[Array, "batch queries"]  # which document a query belongs to


def find_documents(intervals: Intervals, keys: int) -> tuple[Documents, Bool[Array, ""]]:
    """The documents: queries in a row that see keys from the same start; and whether they describe all intervals."""
    start, end = intervals.start, intervals.end
    count = start.shape[1]
    begins = jnp.concatenate([jnp.ones_like(start[:, :1], bool), start[:, 1:] != start[:, :-1]], axis=1)
    of_query = jnp.cumsum(begins, axis=1) - 1
    first = jax.vmap(partial(jnp.nonzero, size=DOCUMENTS, fill_value=count))(begins)[0].astype(jnp.int32)
    last = jnp.concatenate([first[:, 1:], jnp.full_like(first[:, :1], count)], axis=1)

    def at(array: Array, index: Array) -> Array:
        return jnp.take_along_axis(array, jnp.clip(index, 0, array.shape[1] - 1), axis=1)

    key, prefix, until = at(start, first), at(end, first) - at(start, first), at(end, last - 1)
    itself = (key == first) & (until == last)
    whole = (key + prefix == until) & ~(itself & (prefix == 1))
    documents = Documents(first, last - first, key, prefix, whole, jnp.minimum(of_query, DOCUMENTS - 1))

    def own(array: Array) -> Array:
        return at(array, documents.of_query)

    index = jnp.arange(count)
    expected = jnp.where(own(whole), own(until), jnp.maximum(index + 1, own(key + prefix)))
    known = (of_query < DOCUMENTS) & (expected == end) & (own(whole) | own(itself)) & (end > start)
    return documents, jnp.all(known)


def _packed(documents: Documents, causal: bool, scale: float, query: Array, key: Array, value: Array) -> Array:
    first, queries, first_key, prefix, whole, _ = documents
    ahead = whole | (prefix > 1)  # these begin with tokens that see each other
    count = jnp.where(whole, queries, prefix)
    spans = _Spans(first, jnp.where(ahead, count, 0), first_key, jnp.where(ahead, prefix, 0))
    after = jnp.where(whole, 0, queries)
    behind, _ = _call(fused.MaskType.PADDING_CAUSAL, _Spans(first, after, first_key, after), scale, query, key, value)
    if causal:  # then only padding sees what is behind it
        return behind
    both_ways, covered = _call(fused.MaskType.PADDING, spans, scale, query, key, value)
    return jnp.where(covered, both_ways, behind)


class _Spans(NamedTuple):
    """Which queries attend to which keys: where both begin in each document, and how many there are."""

    query: Int[Array, "batch documents"]
    queries: Int[Array, "batch documents"]
    key: Int[Array, "batch documents"]
    keys: Int[Array, "batch documents"]


def _call(
    mask: fused.MaskType, spans: _Spans, scale: float, query: Array, key: Array, value: Array
) -> tuple[Array, Array]:
    """The result, zero for queries in no span; and which are in one. cuDNN writes nothing outside of the spans, so both
    the result and, through these selections, the gradients are defined there too."""
    present = (spans.queries > 0) & (spans.keys > 0)

    def covered(begin: Array, size: Array, length: int) -> Array:
        index, begin, size = jnp.arange(length), begin[..., None], size[..., None]
        return jnp.any(present[..., None] & (index >= begin) & (index < begin + size), axis=1)[..., None, None]

    def listed(x: Array) -> Array:
        return jnp.where(present, x, -1).astype(jnp.int32)

    def offsets(begin: Array) -> Array:
        return jnp.pad(listed(begin), ((0, 0), (0, 1)), constant_values=-1)

    inside = covered(spans.query, spans.queries, query.shape[1])
    read = covered(spans.key, spans.keys, key.shape[1])
    query, key, value = jnp.where(inside, query, 0), jnp.where(read, key, 0), jnp.where(read, value, 0)
    out = fused.dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        mask_type=mask,
        q_seqlen=listed(spans.queries),
        kv_seqlen=listed(spans.keys),
        q_offsets=offsets(spans.query),
        kv_offsets=offsets(spans.key),
    )
    return jnp.where(inside, out, 0), inside
