"""What it takes to evaluate and to sample a model: parameters, a batch of scored rows, keys and values of texts.

As for training, the programs that `inference` would run are compiled ahead of time in a process of its own, for devices
that need not be there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import cattrs
from rich.console import Console
from rich.table import Table

from research.config import Experiment, Mesh, replace_fields
from research.planning import compiling
from research.planning.chips import GIB, Topology

Dtype = Literal["float32", "bfloat16"]
NEW = 64  # tokens that are generated, as of `generate` unless it is told otherwise
ROOM = 0.9  # of a chip's memory that parameters alone may fill, for a mesh to be compiled


@dataclass(frozen=True)
class Need:
    """Bytes of one device, unless said otherwise."""

    mesh: dict[str, int]
    count: int  # parameters
    whole: float  # bytes of all of them, over all devices
    parameters: float
    rows: int  # that are scored at once, over all devices
    scoring: float  # beside the parameters, while rows are scored
    texts: int  # that are generated at once; 0: the model generates none
    cache: float  # their keys and values
    generation: float  # beside the parameters, while they are generated; keys and values are in it

    def total(self, baseline: bool = True) -> float:
        """At the peak; with the untrained model beside it, which `evaluate` asks too unless it is told not to."""
        return (1 + baseline) * self.parameters + max(self.scoring, self.generation)

    @property
    def options(self) -> str:
        """The mesh as options of a command."""
        sizes = [f"--mesh.{axis} {size}" for axis, size in self.mesh.items() if size > 1]
        return " ".join(sizes) or "no --mesh"


def plan(experiment: Experiment, topology: Topology, dtype: Dtype, console: Console) -> int:
    """Prints what a resolved experiment's model needs to be evaluated with `experiment.mesh`; where that is the
    default, with the mesh of fewest parts with which it fits. Returns 0 if it fits, else 1.

    Raises:
      InputError: if the mesh does not fit the topology or does not divide the model, with what would.
    """
    from research.models import adapters  # only now, so that a mistake on the command line is told at once

    given, memory = experiment.mesh != Mesh(), topology.chip.memory
    count = sum(leaf.size for leaf in adapters.shapes(experiment.model).values())
    whole = count * (2 if dtype == "bfloat16" else 4)
    meshes = [mesh for mesh in _meshes(experiment, topology) if whole / (mesh.fsdp * mesh.tensor) <= ROOM * memory]
    tried: list[Need] = []
    for mesh in [experiment.mesh, *meshes] if given else meshes:
        tried.append(compile(replace(experiment, mesh=mesh), topology, dtype))
        if tried[-1].total() <= memory:
            break
    if not tried:
        least = math.ceil(whole / ROOM / memory)
        half = ", or half as many with --dtype bfloat16" * (dtype == "float32")
        console.print(
            f"does not fit: {count:,} parameters are {whole / GIB:,.1f} GiB in {dtype}; {least:,} or more such chips "
            f"would hold them{half}",
            highlight=False,
        )
        return 1
    fitting = [each for baseline in (True, False) for each in tried if each.total(baseline) <= memory]
    best = fitting[0] if fitting else tried[-1]
    chosen = tried[0] if given else best
    _show(console, experiment, topology, dtype, chosen)
    if chosen in fitting:
        alone = "" if chosen.total() <= memory else " --untrained False"
        console.print(f"fits: evaluate CHECKPOINT {chosen.options} --dtype {dtype}{alone}", highlight=False)
        return 0
    no = "nor does it with any mesh of these chips; more of them, or a shorter --data.length, might"
    would = f"this would: {best.options}" if fitting else no
    needed, there = chosen.total(False) / GIB, memory / GIB
    console.print(
        f"does not fit: {needed:,.1f} GiB are needed on a chip that has {there:,.1f}; {would}", highlight=False
    )
    return 1


def compile(experiment: Experiment, topology: Topology, dtype: Dtype) -> Need:
    """Of a resolved experiment. Takes up to a minute.

    Raises:
      InputError: if the mesh does not fit, or there is no TPU compiler.
    """
    return cattrs.structure(compiling.elsewhere("research.planning.inference", experiment, topology, dtype=dtype), Need)


def _meshes(experiment: Experiment, topology: Topology) -> Iterator[Mesh]:
    """Those that split the parameters into ever more parts: along heads as far as they go, then along the width."""
    model, chips = experiment.model, topology.chips
    sizes = (model.attention.heads, model.mlp.width, model.vocabulary)
    for parts in (number for number in range(1, chips + 1) if chips % number == 0):
        tensor = max(size for size in range(1, parts + 1) if parts % size == 0 and not any(s % size for s in sizes))
        if model.width % (parts // tensor) == 0:
            yield Mesh(data=chips // parts, fsdp=parts // tensor, tensor=tensor)


def _show(console: Console, experiment: Experiment, topology: Topology, dtype: Dtype, need: Need) -> None:
    length = experiment.data.length
    mesh = " x ".join(f"{axis} {size}" for axis, size in need.mesh.items() if size > 1) or "one device"
    console.print(
        f"{need.count:,} parameters in {dtype}, {need.whole / GIB:,.1f} GiB, to be evaluated on {topology} "
        f"({topology.chips:,} chips): {mesh}",
        highlight=False,
    )
    parts = {
        "parameters": need.parameters,
        f"beside them, scoring {need.rows:,} rows of {length:,}": need.scoring,
        f"keys and values of {need.texts} texts of {length:,}": need.cache,
        "beside the parameters, generating those": need.generation,
        "the untrained baseline (not with --untrained False)": need.parameters,
        "all, at the peak": need.total(),
        f"a chip's memory ({topology.chip.name})": topology.chip.memory,
    }
    table = Table()
    table.add_column("bytes of one chip")
    table.add_column("GiB", justify="right")
    for name, size in parts.items():
        if size:
            table.add_row(name, f"{size / GIB:,.3f}")
    console.print(table)
    if not topology.tpu:
        console.print(
            "compiled for CPUs on a mesh of the same size, which hold bfloat16 products in float32 and have no fused "
            "attention: what is beside the parameters is an upper bound",
            highlight=False,
        )


def _compile(experiment: Experiment, topology: Topology, dtype: Dtype) -> Need:
    """In the other process."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np

    from research import objectives, sharding
    from research.inference import batch_generation, generation, scoring
    from research.planning import memory
    from research.runs import loading

    model = experiment.model
    if model.attention.implementation == "cudnn":  # only a GPU can compile it
        model = replace_fields(model, {"attention.implementation": "blocks"})
    layout = sharding.layout(experiment.mesh, model, compiling.devices(topology))
    params = loading.abstract_params(model, layout, dtype)
    held = memory.per_device(params)
    length, source_length = experiment.data.length, experiment.data.source_length or experiment.data.length

    def integers(*shape: int, by: sharding.Layout = layout.whole_batch) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=by.sharding(("batch",)))

    def beside(lowered: Any) -> tuple[float, Any]:
        """Bytes beside the parameters, which are arguments too, and the program; None: the compiler refuses it."""
        try:
            program = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return memory.refused(str(error)), None
        stats = program.memory_analysis()
        outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
        return stats.argument_size_in_bytes + stats.temp_size_in_bytes + max(0, outputs) - held, program

    by_rows, parts = layout.whole_rows, layout.extent("batch")
    budget = scoring.TOKENS_ON_CPU if topology.chip.name == "cpu" else scoring.TOKENS
    rows = max(1, budget // length // parts) * parts
    causal = objectives.causal_only(experiment.objectives, model.encoder_depth > 0)
    source = sharding.abstract_batch(by_rows, rows, source_length) if model.encoder_depth else None
    scored = integers(rows, 8, length, by=by_rows), integers(rows, 3, length, by=by_rows), source
    banned = jax.ShapeDtypeStruct((model.vocabulary,), jnp.bool_)
    with sharding.logical_rules(by_rows):
        scores, _ = beside(scoring.score_rows.lower(model, layout.replicated, causal, params, *scored, banned))
    need = {
        "mesh": dict(layout.mesh.shape),
        "count": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "whole": memory.whole(params),
        "parameters": held,
        "rows": rows,
        "scoring": scores,
    }
    if not any("generation" in objective.answers for objective in experiment.objectives):
        return Need(**need, texts=0, cache=0.0, generation=0.0)
    whole, texts = layout.whole_batch, batch_generation.BATCH
    width = min(generation.bucket(max(1, length - NEW)), generation.places(model) or length)
    room = generation.bucket(width + NEW)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), texts))
    read = sharding.abstract_batch(whole, texts, source_length) if model.encoder_depth else None
    prompts = integers(texts, width), integers(texts), integers(texts), read, keys
    flags = jax.ShapeDtypeStruct((model.vocabulary,), jnp.bool_)
    with sharding.logical_rules(whole):
        reading, prefill = beside(generation.prefill.lower(model, room, params, *prompts))
        loop = jax.eval_shape(partial(generation.prefill, model, room), params, *prompts)
        if prefill is None:
            return Need(**need, texts=texts, cache=memory.whole(loop.cache), generation=reading)
        loop = jax.tree.map(lambda leaf, to: leaf.update(sharding=to), loop, prefill.output_shardings)
        rule, number = generation.Rule(greedy=True, top_k=0, nucleus=False), np.float32(0)
        limits = integers(texts), np.zeros(texts, np.int32), integers(texts), flags, flags
        seen = integers(texts) if model.encoder_depth else None
        writing, _ = beside(generation.extend.lower(model, rule, params, loop, number, number, *limits, seen))
    return Need(**need, texts=texts, cache=memory.per_device(loop.cache), generation=max(reading, writing))


if __name__ == "__main__":
    compiling.answer(_compile)
