"""The device mesh, and where arrays lie on it: the only file that knows mesh axes.

Models name logical axes; `config.Mesh.rules` maps those to mesh axes. `Layout` is both together.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research import config, models
from research.errors import InputError
from research.objectives.batch import Batch

AXES = ("data", "fsdp", "tensor")
SIZES = {  # logical axes of parameters -> the field of `config.Model` that says how long they are
    "embed": "width",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "head": "head_width",
    "mlp": "mlp_width",
    "vocab": "vocabulary",
    "residual": "width",
}
BATCH_AXES = ("batch", "length")  # logical axes of a batch
Rules = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Layout:
    """A mesh, and the table that maps logical axes to its axes."""

    mesh: Mesh
    rules: Rules

    def extent(self, name: str | None) -> int:
        """Into how many parts a logical axis is split."""
        return math.prod(self.mesh.shape[axis] for axis in dict(self.rules).get(name or "", ()))

    def sharding(self, names: Sequence[str | None]) -> NamedSharding:
        """Of an array with these logical axes. Where two of them map to the same mesh axis, the first one has it."""
        table = dict(self.rules)
        taken: set[str] = set()
        spec: list[tuple[str, ...] | None] = []
        for name in names:
            mesh_axes = tuple(axis for axis in table.get(name or "", ()) if axis not in taken)
            taken.update(mesh_axes)
            spec.append(mesh_axes or None)
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    @property
    def batch(self) -> NamedSharding:
        """Of every array of a batch."""
        return self.sharding(BATCH_AXES)

    @property
    def replicated(self) -> NamedSharding:
        """Of what every device has a copy of."""
        return self.sharding(())


def layout(mesh: config.Mesh, model: config.Model, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The mesh over `devices` (all, if None) for a resolved model.

    Key and value heads that are fewer than the devices along their mesh axis are not split: each device computes the
    few that its query heads read, or all of them, which costs less than splitting a head would in communication.

    Raises:
      InputError: if the mesh does not fit the devices, or does not divide the model; it says what would.
    """
    built = make_mesh(mesh, devices)
    known = (*SIZES, *BATCH_AXES)
    for name, mesh_axes in mesh.rules:
        if name not in known:
            raise InputError(f"mesh.rules: nothing has the logical axis {name!r}; there are {', '.join(known)}")
        if unknown := set(mesh_axes) - set(AXES):
            raise InputError(f"mesh.rules: {name!r} maps to {sorted(unknown)}; the mesh has {', '.join(AXES)}")
    whole = Layout(built, mesh.rules)
    if model.kv_heads < whole.extent("kv_heads"):
        whole = Layout(built, tuple(rule for rule in mesh.rules if rule[0] != "kv_heads"))
    for name, mesh_axes in whole.rules:
        size, parts = getattr(model, SIZES[name]) if name in SIZES else 0, whole.extent(name)
        if size % parts:
            raise InputError(
                f"model.{SIZES[name]}: mesh.{' x mesh.'.join(mesh_axes)} = {parts} does not divide {size}; "
                f"{_listed(_divisors(size))} would"
            )
    return whole


def make_mesh(mesh: config.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `AXES`; a size of -1 takes what the others leave.

    Raises:
      InputError: if the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count, sizes = len(devices), {axis: getattr(mesh, axis) for axis in AXES}
    given = " x ".join(f"mesh.{axis} = {size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise InputError(f"{given}: only one size can be -1")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        others = math.prod(sizes[axis] for axis in AXES[1:])
        fits = (
            f"mesh.data = {count // others} would"
            if others > 0 and count % others == 0
            else f"mesh.fsdp and mesh.tensor must multiply to a divisor of {count}: {_listed(_divisors(count))}"
        )
        raise InputError(f"{given} does not fit {count} device{'s' * (count > 1)}; {fits}")
    shape = tuple(sizes[axis] for axis in AXES)
    # where no dimension of a torus has an axis' length, an axis takes a part of one
    arranged = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(layout: Layout, batch: int, accumulation: int) -> None:
    """Raises InputError if the rows of a microbatch cannot be split evenly."""
    parts = layout.extent("batch") * accumulation
    if batch % parts:
        near = [multiple * parts for multiple in (batch // parts, batch // parts + 1) if multiple]
        raise InputError(
            f"data.batch: {batch} rows are not divisible by {layout.extent('batch')} (the mesh's parts of a batch) x "
            f"{accumulation} (step.accumulation); {' or '.join(map(str, near))} would be"
        )


def parameter_shardings(layout: Layout, axes: Any) -> Any:
    """The tree of `models.axes` with a sharding for each parameter."""
    return jax.tree.map(layout.sharding, axes, is_leaf=lambda node: isinstance(node, tuple))


def optimizer_shardings(
    layout: Layout, optimizer: optax.GradientTransformation, state: Any, params: Any, shardings: Any
) -> Any:
    """Of an optimizer's state: what has the shape of a parameter lies where the parameter does; the rest (counts,
    Adafactor's sums of rows and columns) is small and copied.

    Args:
      layout: where.
      optimizer: whose state it is.
      state: the shapes of that state.
      params: the shapes of the parameters.
      shardings: of the parameters.
    """

    def absent(leaf: Any) -> bool:  # in the part of an optimizer that another part takes care of
        return isinstance(leaf, optax.MaskedNode)

    def follow(leaf: Any, parameter: Any, sharding: NamedSharding) -> Any:
        if absent(leaf):
            return leaf
        return sharding if leaf.shape == parameter.shape else layout.replicated

    return optax.tree_map_params(
        optimizer, follow, state, params, shardings, transform_non_params=lambda _: layout.replicated, is_leaf=absent
    )


@contextlib.contextmanager
def logical_rules(layout: Layout) -> Iterator[None]:
    """While a function is traced inside, the logical constraints of models mean this layout, and its platform."""
    platform = layout.mesh.devices.flat[0].platform
    with (
        jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh),
        models.logical_axis_rules(layout.rules),
        models.compiled_for(platform),
    ):
        yield


def put(layout: Layout, batch: Batch) -> Batch:
    """A batch on the devices. `batch` holds the rows of this process, in the order of `jax.process_index`."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(layout.batch, array), batch)


def abstract_batch(layout: Layout, rows: int, length: int, source_length: int | None = None) -> Batch:
    """Shapes, types and shardings of a batch, for compiling ahead of time; with a source side if that has a length."""

    def side(length: int, source: Batch | None) -> Batch:
        tokens: Any = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=layout.batch)
        return Batch(tokens, tokens, tokens.update(dtype=jnp.float32), tokens, tokens, tokens, source)

    return side(length, None if source_length is None else side(source_length, None))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers[:12])
