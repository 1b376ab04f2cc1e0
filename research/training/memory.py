"""Whether a run fits into the memory that there is, by its sizes alone and before anything is compiled or allocated.

It is a lower bound: a run that is refused cannot fit; one that is not may still be too large, which `plan` can tell by
compiling it. Counted are parameters and the optimizer's state, a gradient of what is trained, the batch, and the inputs
of all layers for a microbatch, which are kept for the backward pass even with `model.remat = full`.
"""

import math
import os
from pathlib import Path
from typing import Any

import jax

from research.config import Experiment
from research.errors import InputError
from research.objectives.batch import ARRAYS
from research.sharding import Layout
from research.training.partition import partition
from research.training.state import TrainState

CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


def check(experiment: Experiment, layout: Layout, state: TrainState, frozen: frozenset[str]) -> None:
    """Raises InputError with the bytes that a device needs and has, if a resolved experiment cannot fit.

    Args:
      state: shapes, types and shardings.
      frozen: paths of the parameters that are not trained.
    """
    available = device_memory()
    parts = {
        "parameters": per_device(state.params),
        "optimizer state": per_device(state.optimizer_state),
        "gradients": per_device(partition(state.params, frozen)[0]),
        "activations": _activations(experiment, layout),
    }
    needed = sum(parts.values())
    if available is not None and needed > available:
        listed = ", ".join(f"{name} {_shown(value)}" for name, value in parts.items())
        raise InputError(
            f"the run needs at least {_shown(needed)} ({needed:,} bytes) on a device that has {_shown(available)}: "
            f"{listed}; make model.width, model.depth, data.length or data.batch smaller, step.accumulation larger, or "
            "split it over more devices (mesh.fsdp)"
        )


def per_device(tree: Any) -> int:
    """Bytes on one device of a tree of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_parameters(params: Any, dtype: str) -> None:
    """Raises InputError with what would fit, if parameters cannot be loaded to where they are to be.

    Args:
      params: shapes, types and shardings, on one device or on all.
      dtype: in which they are loaded, by its name.
    """
    devices = len(jax.tree.leaves(params)[0].sharding.device_set)
    available, needed = device_memory(min(devices, jax.local_device_count())), per_device(params)
    if available is None or needed <= available:
        return
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    parts = math.ceil(whole / (0.9 * available))  # something must be left for what is computed
    half = "; --dtype bfloat16 halves that" * (dtype == "float32")
    raise InputError(
        f"the parameters need {_shown(needed)} in {dtype} on a device that has {_shown(available)}: split them over "
        f"{parts} or more devices (as --mesh.tensor {parts}; plan CONFIG --for evaluate says which mesh fits){half}"
    )


def device_memory(sharing: int | None = None) -> int | None:
    """Bytes that a device can have; None where it is not known. CPU devices of a process share the machine's: so many
    of them, None: all."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return _machine() // (sharing or jax.local_device_count())
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None else int(limit)


def _machine() -> int:
    """Bytes of memory of this machine, or of the container."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text(encoding="ascii").strip() if CGROUP.exists() else "max"
    return min(whole, int(limit)) if limit.isdigit() else whole


def _activations(experiment: Experiment, layout: Layout) -> int:
    """Bytes on one device of a batch, and of the inputs of all layers for a microbatch."""
    model, data, step = experiment.model, experiment.data, experiment.step
    width = 2 if step.compute_dtype == "bfloat16" else 4
    source = (data.source_length or data.length) if model.encoder_depth else 0
    rows = data.batch // layout.extent("batch")
    places = data.length * model.depth + source * model.encoder_depth
    split = layout.extent("residual_length") * step.accumulation
    batch = rows * (data.length + source) * len(ARRAYS) * 4  # bytes
    return batch + rows * places * model.width * width // split


def _shown(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
