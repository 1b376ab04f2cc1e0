"""Causal rows that are split over devices, so that all have the same work: each holds an early and a late part.

Of `n` devices, device `d` holds the parts `2 d` and `2 d + 1` of `2 n` of a row's queries; while attention is computed
it holds `d` and `2 n - 1 - d` (Llama 3, section 3.3.2). What a query sees is data that moves with it, so attention
itself need not know.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Pairs = list[tuple[int, int]]


def exchange(axes: tuple[str, ...], x: Array) -> Array:
    """Inside a `shard_map` over `axes`, which split axis 1 of `x` into parts of even length."""
    first, second = jnp.split(x, 2, axis=1)
    even, odd = _moves(lax.axis_size(axes))
    return jnp.concatenate([lax.ppermute(first, axes, even), lax.ppermute(second, axes, odd)], axis=1)


def exchange_back(axes: tuple[str, ...], x: Array) -> Array:
    """The inverse of `exchange`."""
    first, second = jnp.split(x, 2, axis=1)
    even, odd = ([(there, here) for here, there in moves] for moves in _moves(lax.axis_size(axes)))
    return jnp.concatenate([lax.ppermute(first, axes, even), lax.ppermute(second, axes, odd)], axis=1)


def _moves(devices: int) -> tuple[Pairs, Pairs]:
    """Where each device's first and second part go."""

    def holder(part: int) -> int:
        return min(part, 2 * devices - 1 - part)

    return [(d, holder(2 * d)) for d in range(devices)], [(d, holder(2 * d + 1)) for d in range(devices)]
