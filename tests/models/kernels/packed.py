"""What cuDNN's packed layout does by its documentation in JAX, on any platform; what it leaves undefined is NaN."""

import jax
import jax.numpy as jnp
from jax._src.cudnn.fused_attention_stablehlo import MaskType

from research.models.kernels import Intervals, plain


def dot_product_attention(query, key, value, *, scale, mask_type, q_seqlen, kv_seqlen, q_offsets, kv_offsets):
    assert query.dtype in (jnp.bfloat16, jnp.float16) and q_offsets.shape[1] == q_seqlen.shape[1] + 1
    assert all(x.dtype == jnp.int32 for x in (q_seqlen, kv_seqlen, q_offsets, kv_offsets))
    q_first, k_first, present = q_offsets[:, :-1, None], kv_offsets[:, :-1, None], (q_offsets[:, :-1] >= 0)[..., None]
    assert mask_type in (MaskType.PADDING, MaskType.PADDING_CAUSAL)

    def inside(first, size, length):  # [batch, documents, length]
        index = jnp.arange(length)
        return present & (index >= first) & (index < first + size[..., None])

    queries, keys = inside(q_first, q_seqlen, query.shape[1]), inside(k_first, kv_seqlen, key.shape[1])
    place = jnp.arange(query.shape[1]) - q_first  # of a query in its document
    seen = kv_seqlen[..., None] if mask_type == MaskType.PADDING else jnp.minimum(place + 1, kv_seqlen[..., None])
    start = jnp.sum(jnp.where(queries, k_first, 0), axis=1)
    intervals = Intervals(start, start + jnp.sum(jnp.where(queries, seen, 0), axis=1))
    undefined = [~jnp.any(x, axis=1)[..., None, None] for x in (queries, keys, keys)]

    @jax.custom_vjp
    def attend(arrays, intervals, undefined):
        return jnp.where(undefined[0], jnp.nan, plain.attend(*arrays, intervals, scale, None))

    def forward(arrays, intervals, undefined):
        return attend(arrays, intervals, undefined), (arrays, intervals, undefined)

    def backward(kept, cotangent):
        arrays, intervals, undefined = kept
        _, back = jax.vjp(lambda *xs: plain.attend(*xs, intervals, scale, None), *arrays)
        gradients = back(jnp.where(undefined[0], 0, cotangent))
        return [jnp.where(where, jnp.nan, x) for where, x in zip(undefined, gradients, strict=True)], None, None

    attend.defvjp(forward, backward)
    return attend([query, key, value], intervals, undefined)
