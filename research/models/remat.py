"""What is kept of a layer for the backward pass (`config.Model.remat`); the rest is computed again."""

from collections.abc import Callable
from typing import Any

import jax

_POLICIES = jax.checkpoint_policies
_PLACES = ("layer_input", "attention", "mlp_input")  # `checkpoint_name`s in a layer, in order


def policy(remat: str) -> Callable[..., Any] | None:
    """For `jax.checkpoint` around a layer; None keeps its inputs alone."""
    attention = _POLICIES.save_only_these_names("attention")
    match remat:
        case "dots":
            return _POLICIES.save_from_both_policies(_POLICIES.dots_with_no_batch_dims_saveable, attention)
        case "attention":
            return attention
        case "attention_mlp":
            return _POLICIES.save_only_these_names("attention", "mlp_input")
        case "offload":
            return _POLICIES.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=list(_PLACES),
                offload_src="device",
                offload_dst="pinned_host",
            )
        case _:
            return None
