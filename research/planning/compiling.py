"""Compiles the training step for devices that need not be there, in a process of its own.

For TPUs that is the real TPU compiler; for GPUs and CPUs the compiler for CPUs, on as many devices as the topology has.
The process is another one because both must be told to JAX before it starts, and because libtpu takes memory and talks.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cattrs
import numpy as np

from research import config
from research.config import Experiment, replace_fields
from research.errors import InputError, install
from research.planning import counting, hlo
from research.planning.chips import Topology
from research.planning.counting import Piece
from research.runtime import xla_flags

if TYPE_CHECKING:  # the command itself needs no JAX
    from research.objectives.batch import Batch
    from research.training.compiled_steps import CompiledSteps

MARK = "planned: "  # begins the line with the result, among whatever else compilers print


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over the same axes of the mesh, as one device takes part in them in a step."""

    kind: str
    axes: tuple[str, ...]
    bytes: float  # of the whole array, once
    times: float
    overlapped: bool
    inside: int  # members of a group within one slice
    slices: int  # slices that a group spans
    links: float  # that a device uses at once, in units of one link in one direction; contention is in it
    hops: float  # between the most distant members within a slice
    beside: Piece | None = None  # local work that the schedule has while it runs, once; None: as much as it takes


@dataclass(frozen=True)
class Compiled:
    """What is known of a step once it is compiled. Bytes and work are those of one device."""

    mesh: dict[str, int]
    parameters: float  # bytes
    optimizer: float
    state: float  # bytes of parameters and optimizer over all devices: what a checkpoint holds
    count: int  # parameters
    activations: float  # bytes that are kept for the backward pass, as traced, before the compiler
    temporary: float  # all that the compiler allocates beyond the state and the batch, activations included
    total: float  # bytes at the peak
    refused: str  # what the compiler says when the program does not fit; then there is no work
    pieces: tuple[Piece, ...] = ()
    traffic: tuple[Traffic, ...] = ()

    @property
    def flops(self) -> float:
        """Of the matrix products that a device does in a step, recomputation included."""
        return sum(piece.flops * piece.times for piece in self.pieces)


def compile(experiment: Experiment, topology: Topology) -> Compiled:
    """The training step of a resolved experiment. Takes from seconds to minutes.

    Raises:
      InputError: if the experiment does not fit the topology's devices, or there is no TPU compiler.
    """
    return cattrs.structure(elsewhere("research.planning.compiling", experiment, topology), Compiled)


def elsewhere(module: str, experiment: Experiment, topology: Topology, **more: Any) -> dict[str, Any]:
    """What a module's `answer` says in a process of its own. Raises the InputError that it raises there."""
    task = {"experiment": config.to_dict(experiment), "topology": cattrs.unstructure(topology), "more": more}
    command = [sys.executable, "-P", "-m", module]
    done = subprocess.run(
        command, input=json.dumps(task), env=_environment(topology), capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            if "error" in found:
                raise InputError(found["error"])
            return found
    raise RuntimeError(f"compiling for {topology} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def _environment(topology: Topology) -> dict[str, str]:
    devices = "" if topology.tpu else f"--xla_force_host_platform_device_count={topology.chips}"
    return {
        **os.environ,
        **(xla_flags.environment(topology.chip.name, os.environ) if topology.tpu else {}),
        **xla_flags.environment("cpu", {"XLA_FLAGS": devices}),
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks the cloud's metadata server which TPU this is
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compiling needs no TPU that another process could hold
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def answer(function: Callable[..., Any]) -> None:
    """In the other process: a task as JSON on standard input, the result as one marked line on standard output."""
    task = json.load(sys.stdin)
    experiment, topology = config.from_dict(task["experiment"]), cattrs.structure(task["topology"], Topology)
    try:
        found = cattrs.unstructure(function(experiment, topology, **task["more"]))
    except InputError as error:
        found = {"error": str(error)}
    print(MARK + json.dumps(found), flush=True)


def step_and_batch(experiment: Experiment, topology: Topology) -> tuple["CompiledSteps", "Batch"]:
    """The training step of a resolved experiment for the topology's devices, and the shapes of its batch. In a process
    with `_environment`."""
    from research import objectives, sharding
    from research.training.compiled_steps import compiled_steps

    if experiment.model.attention.implementation == "cudnn":  # only a GPU can compile it
        experiment = replace(experiment, model=replace_fields(experiment.model, {"attention.implementation": "blocks"}))
    programs = compiled_steps(experiment, devices(topology))
    data = experiment.data
    source = (data.source_length or data.length) if experiment.model.encoder_depth else None
    causal = objectives.causal_only(experiment.objectives, experiment.model.encoder_depth > 0)
    return programs, sharding.abstract_batch(programs.layout, data.batch, data.length, source, causal)


def _compile(experiment: Experiment, topology: Topology) -> Compiled:
    import jax

    from research.planning import memory

    programs, batch = step_and_batch(experiment, topology)
    layout = programs.layout
    parameters, optimizer = (
        memory.per_device(part) for part in (programs.state.params, programs.state.optimizer_state)
    )
    known: dict[str, Any] = {
        "mesh": dict(layout.mesh.shape),
        "parameters": parameters,
        "optimizer": optimizer,
        "state": memory.whole(programs.state),
        "count": sum(leaf.size for leaf in jax.tree.leaves(programs.state.params)),
        "activations": memory.activations(experiment, programs),
    }
    try:
        compiled = programs.train_step.lower(programs.state, batch).compile()  # type: ignore[attr-defined]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        need = memory.refused(str(error))
        temporary = max(0.0, need - parameters - optimizer)
        return Compiled(**known, temporary=temporary, total=need, refused=str(error).split("\n\n")[0])
    stats = compiled.memory_analysis()
    arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes - stats.alias_size_in_bytes
    temporary = stats.temp_size_in_bytes + max(0, outputs) + stats.generated_code_size_in_bytes
    slices = topology.slices if topology.tpu else 1  # of a TPU, each has the program of its own devices
    work = counting.count(hlo.parse(compiled.as_text()), topology.chips // slices, slices)
    return Compiled(
        **known,
        temporary=temporary,
        total=arguments + temporary,
        refused="",
        pieces=_merged(work.pieces),
        traffic=tuple(_traffic(each, layout.mesh, topology) for each in work.collectives if each.members.shape[-1] > 1),
    )


def devices(topology: Topology) -> list[Any]:
    """Of a topology, in a process with its `_environment`. Raises InputError if there is no compiler for them."""
    import jax

    if not topology.tpu:
        return jax.devices()
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"planning for {topology} needs the TPU compiler: {install('tpu')}")
    from jax.experimental import topologies

    chip, shape = topology.chip, topology.shape
    choices: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if chip.config:
        choices["chip_config_name"] = chip.config
    if chip.dimensions == 2 and any(size % 2 for size in shape):
        choices["chips_per_host_bounds"] = [*shape, 1]
    name = f"{chip.name}:{'x'.join(map(str, shape))}"
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **choices).devices)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"--topology {name}: the TPU compiler knows no such slice: {str(error).splitlines()[0]}"
        ) from error


def _merged(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Pieces that are alike as one."""
    times: dict[Piece, float] = {}
    for piece in pieces:
        alike = replace(piece, times=0.0)
        times[alike] = times.get(alike, 0) + piece.times
    return tuple(replace(piece, times=often) for piece, often in times.items())


def _traffic(collective: counting.Collective, mesh: Any, topology: Topology) -> Traffic:
    """Which axes of the mesh a collective runs over, and which way through the machine it takes."""
    sizes = tuple(mesh.shape.values())
    groups = collective.members
    positions = np.stack(np.unravel_index(groups, sizes), axis=-1)  # [groups, members, axes]
    varies = np.any(positions != positions[:, :1], axis=(0, 1))
    axes = tuple(name for name, varying in zip(mesh.axis_names, varies, strict=True) if varying)
    inside, slices, links, hops = way(_places(mesh, topology)[groups[0]], topology)
    common = collective.kind, axes, collective.bytes, collective.times, collective.overlapped
    return Traffic(*common, inside, slices, links, hops, collective.beside)


def _places(mesh: Any, topology: Topology) -> np.ndarray:
    """Of each device in the order of the mesh: its slice and its coordinates in there, `[devices, 1 + dimensions]`."""
    devices = mesh.devices.flat
    if not topology.tpu:
        return np.array([divmod(device.id, topology.shape[0]) for device in devices])
    dimensions = topology.chip.dimensions
    return np.array([[getattr(d, "slice_index", None) or 0, *d.coords[:dimensions]] for d in devices])


def way(places: np.ndarray, topology: Topology) -> tuple[int, int, float, float]:
    """Of a group of devices at these places: members within one slice, slices, links that a device uses at once, and
    hops.

    A dimension of a torus that closes to a ring has two links, one that does not has one that counts, since the chip at
    its end has no more. Groups that are interleaved along a dimension share its links.
    """
    slices = len(np.unique(places[:, 0]))
    inside = places[places[:, 0] == places[0, 0], 1:]
    if not topology.tpu:
        return len(inside), slices, 1.0, 1.0
    links, hops = 0.0, 0.0
    for size, along in zip(topology.shape, inside.T, strict=True):
        met = len(np.unique(along))
        if met == 1:
            continue
        span = along.max() - along.min() + 1
        ring = size % topology.chip.wraps == 0 and span > size / 2
        share = met / (size if ring else span)
        links += share * (2 if ring else 1)
        hops += span / 2 if ring else span - 1
    return len(inside), slices, links or 1.0, hops


if __name__ == "__main__":
    answer(_compile)
