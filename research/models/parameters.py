"""How the modules of this folder make a parameter."""

from typing import Any

import flax.linen as nn


def parameter(
    module: nn.Module, name: str, initializer: Any, shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> Any:
    """A float32 parameter, or integers where the initializer says so, whose axes have logical names."""
    return module.param(name, nn.with_logical_partitioning(initializer, axes), shape)
