"""Other ways to run the same experiment on a topology: mesh, recomputation, rows per chip. What is computed stays.

They are ranked by a rough estimate, so that only a few are compiled; what is reported comes from compiling alone.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from research.config import Experiment, Model
from research.objectives import causal_only
from research.planning.chips import LINK_SHARE, Topology
from research.planning.compiling import Compiled
from research.training.flops import train_flops

Remat = Literal["none", "dots", "attention_mlp", "attention", "full"]
REMATS: tuple[Remat, ...] = ("none", "dots", "attention_mlp", "attention", "full")
# of the FLOPs of a step, done once more
RECOMPUTED = {"none": 0.0, "dots": 0.02, "attention_mlp": 0.26, "attention": 0.29, "full": 1 / 3, "offload": 0.26}
REACHED = 0.85  # of a chip's peak, by the products of a step and what is fused with them
ROOM = 0.9  # of a chip's memory that a rough estimate may fill


@dataclass(frozen=True)
class Rough:
    """Estimated without compiling."""

    state: float  # bytes of one device: parameters, optimizer
    temporary: float  # the most bytes beside them
    seconds: float  # of a step


def alternatives(experiment: Experiment, topology: Topology, compiled: Compiled, count: int) -> list[Experiment]:
    """The most promising variants of a resolved experiment, best first; the experiment itself is not among them.

    `compiled` is the experiment itself: by how much its temporaries were misjudged, the others' are taken to be.
    """
    sizes: dict[str, Any] = dict(compiled.mesh)
    experiment = replace(experiment, mesh=replace(experiment.mesh, **sizes))
    misjudged = compiled.temporary / rough(experiment, topology, compiled.count).temporary
    scored: list[tuple[float, float, int, Experiment]] = []
    for variant in _variants(experiment, topology):
        guess = rough(variant, topology, compiled.count)
        needed = guess.state + misjudged * guess.temporary
        if needed <= ROOM * topology.chip.memory and variant != experiment:
            scored.append((guess.seconds, needed, len(scored), variant))
    return [variant for *_, variant in sorted(scored)[:count]]


def _variants(experiment: Experiment, topology: Topology) -> Iterator[Experiment]:
    chips, rows = topology.chips, experiment.data.batch
    model, lengths = experiment.model, [experiment.data.length, experiment.data.source_length or 0]
    tensors = [
        size
        for size in (1, 2, 4, 8)
        if not any(s % size for s in (model.attention.heads, model.mlp.width, model.vocabulary))
    ]
    for tensor, context in itertools.product(tensors, (1, 2, 4, 8)):
        inner = tensor * context
        if math.prod(topology.shape) % inner or any(length % inner for length in lengths):
            continue
        for fsdp in _divisors(math.prod(topology.shape) // inner):
            data = chips // inner // fsdp
            if model.width % fsdp or rows % (data * fsdp):
                continue
            mesh = replace(experiment.mesh, data=data, fsdp=fsdp, tensor=tensor, context=context)
            share = rows // (data * fsdp)
            for remat, micro in itertools.product(REMATS, (m for m in _divisors(share) if m <= 16)):
                yield replace(
                    experiment,
                    mesh=mesh,
                    model=replace(model, remat=remat),
                    step=replace(experiment.step, accumulation=share // micro),
                )


def rough(experiment: Experiment, topology: Topology, parameters: int) -> Rough:
    """Memory and time of a step with all sizes of the mesh given, from sizes alone."""
    model, data, mesh, step = experiment.model, experiment.data, experiment.mesh, experiment.step
    chip, width = topology.chip, 2 if step.compute_dtype == "bfloat16" else 4
    shard = mesh.fsdp * mesh.tensor
    micro = data.batch // step.accumulation // (mesh.data * mesh.fsdp)
    tokens = micro * data.length // mesh.context
    layers = model.depth + model.encoder_depth
    kept, whole_layer = (
        tokens * _kept(model, data.length, remat, mesh.tensor, topology.tpu) for remat in (model.remat, "none")
    )
    logits = 2 * 4 * min(tokens, step.loss_chunk) * model.vocabulary / mesh.tensor
    state = parameters / shard * 12  # masters and two moments
    gradients = parameters / shard * (4 + width)  # and the copy that is differentiated
    # whole kernels of the output layer and, for a moment, of one layer
    gathered = (
        parameters / mesh.tensor / (layers + 2) * 2 * width + 3 * 4 * model.width * model.vocabulary / mesh.tensor
    )
    temporary = gradients + gathered + layers * kept + whole_layer + logits

    recomputed = 1 + RECOMPUTED[model.remat]
    causal = topology.tpu and causal_only(experiment.objectives, model.encoder_depth > 0)
    work = data.batch * train_flops(model, data, causal) * recomputed / topology.chips / chip.flops / REACHED
    if not topology.tpu:  # passes over the scores of plain attention
        work += (
            40
            * tokens
            * data.length
            * model.attention.heads
            / mesh.tensor
            * layers
            * step.accumulation
            / chip.bandwidth
        )
    speed = chip.link * LINK_SHARE * max(1, 2 * chip.dimensions)
    passes = 3 if model.remat not in ("none", "dots") else 2
    weights = step.accumulation * parameters / mesh.tensor * width * (mesh.fsdp - 1) / mesh.fsdp
    sums = step.accumulation * (
        weights / step.accumulation + 4 * parameters / shard * 2 * (mesh.data * mesh.context > 1)
    )
    keys = 2 * model.attention.kv_heads * model.attention.head_width / mesh.tensor * width * tokens * (mesh.context - 1)
    gathers = step.accumulation * layers * passes * keys
    stream = step.accumulation * layers * 4 * passes * tokens * model.width * width * (mesh.tensor > 1)
    across = 4 * parameters / shard * 2 / chip.network * (topology.slices > 1)
    # gathered weights arrive beside the work, unless the group that gathers them is the whole of a 3-D torus: that
    # compiles to all-reduces, which nothing hides
    whole = chip.dimensions == 3 and mesh.fsdp == math.prod(topology.shape)
    gathered_in, exposed = passes * weights / speed, (sums + gathers + stream) / speed + across
    seconds = work + 2 * gathered_in + exposed if whole else max(work, gathered_in) + exposed
    return Rough(state, temporary, seconds)


def _kept(model: Model, length: int, remat: str, tensor: int, kernel: bool) -> float:
    """Bytes per token and layer, of 2 bytes an element, that are kept for the backward pass."""
    attention = 2 * model.attention.heads * model.attention.head_width / tensor
    if remat in ("full", "offload"):
        return 2 * model.width
    if remat in ("attention", "attention_mlp"):
        return 2 * model.width * (2 if remat == "attention_mlp" else 1) + attention
    products = 2 * model.width * 2 + attention + 4 * model.attention.kv_heads * model.attention.head_width / tensor
    products += 2 * model.mlp.width * (2 if model.mlp.gated else 1) / tensor
    if remat == "dots":
        return products + attention + 2 * model.width
    return 2 * products + 8 * model.width + (0 if kernel else 10 * length * model.attention.heads / tensor)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
