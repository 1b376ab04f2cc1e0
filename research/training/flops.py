"""Model FLOPs, counted, and what a device can do: the two sides of MFU."""

import time

import jax
import jax.numpy as jnp

from research.config import Data, Model

# dense bfloat16 FLOP/s of one device, from the makers' data sheets; the key is part of JAX's device kind
PEAKS = {
    "h200": 989e12,
    "h100": 989e12,
    "a100": 312e12,
    "l4": 121e12,
    "v4": 275e12,
    "v5 lite": 197e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v5": 459e12,
    "v6 lite": 918e12,
    "v6e": 918e12,
}


def train_flops(model: Model, data: Data, causal: bool = False) -> float:
    """FLOPs of one row of a training batch: forward and backward, that is three times the forward's matrix products.

    Attention counts every query-key pair of the row, as in PaLM's appendix B; with `causal` half of those of the
    decoder with itself. Embeddings, norms and recomputation count nothing.
    """
    head, length = model.attention.head_width, data.length
    source = (data.source_length or length) if model.encoder_depth else 0
    attention = 2 * model.width * head * (model.attention.heads + model.attention.kv_heads)  # parameters
    mlp = model.width * model.mlp.width * (3 if model.mlp.gated else 2)
    pairs = 2 * model.attention.heads * head  # multiplications of a pair: its score, and its share of the value
    decoder = length * (attention + mlp) + length * length * pairs * (0.5 if causal else 1)
    if source:
        query = 2 * model.width * head * model.attention.heads
        decoder += length * query + source * (attention - query) + length * source * pairs
    encoder = source * (attention + mlp) + source * source * pairs
    narrow = model.embedding.width or model.width
    features = narrow if model.head.transform or model.head.tied else model.width
    head_product = length * (features * model.vocabulary + (model.width * narrow if model.head.transform else 0))
    if model.embedding.width:
        head_product += (length + source) * narrow * model.width
    return 3 * 2 * (model.depth * decoder + model.encoder_depth * encoder + head_product)


def peak_flops() -> float:
    """FLOP/s of all devices: by their data sheet, or, for a kind that is not listed (CPUs, which share the cores of
    their machine), every machine's as measured on this one with a float32 matrix product of 1024 x 1024, the best of
    ten."""
    kind = jax.devices()[0].device_kind.lower()
    for name, peak in PEAKS.items():
        if name in kind:
            return peak * jax.device_count()
    size = 1024
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda x: x @ x)
    multiply(x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        multiply(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best * jax.process_count()
