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
import numpy as np
import optax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research import config, models
from research.errors import InputError
from research.objectives.batch import Batch

AXES = ("data", "fsdp", "tensor", "context")
SIZES = {  # logical axes of parameters -> the field of `config.Model` that says how long they are
    "embed": "width",
    "heads": "attention.heads",
    "kv_heads": "attention.kv_heads",
    "head": "attention.head_width",
    "mlp": "mlp.width",
    "vocab": "vocabulary",
    "residual": "width",
}
BATCH_AXES = ("batch", "length")  # logical axes of a batch
LENGTHS = ("length", "residual_length")  # logical axes along the rows of a batch
Rules = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Layout:
    """A mesh, and the table that maps logical axes to its axes."""

    mesh: Mesh
    rules: Rules

    def __str__(self) -> str:
        """The axes that split something."""
        sizes = [f"{axis} {size}" for axis, size in self.mesh.shape.items() if size > 1]
        return "mesh " + (" x ".join(sizes) or "of one device")

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
    def whole_rows(self) -> "Layout":
        """The same, but rows are not split along their length: for rows of any length."""
        return Layout(self.mesh, tuple(rule for rule in self.rules if rule[0] not in LENGTHS))

    @property
    def whole_batch(self) -> "Layout":
        """The same, but of a batch nothing is split, only parameters and what follows from them: for any rows."""
        return Layout(self.mesh, tuple(rule for rule in self.rules if rule[0] not in ("batch", *LENGTHS)))

    @property
    def batch(self) -> NamedSharding:
        """Of every array of a batch."""
        return self.sharding(BATCH_AXES)

    @property
    def parts(self) -> list[int]:
        """Which of the parts of a batch the devices of this process hold, ascending. On a torus, their rows need be no
        neighbours; and where more than the rows is split, several processes hold the same ones."""
        count = self.extent("batch")
        held = self.sharding(("batch",)).addressable_devices_indices_map((count,))
        return sorted({(index or (slice(None),))[0].indices(count)[0] for index in held.values()})

    def rows(self, batch: int) -> list[int]:
        """The rows of a global batch that the devices of this process hold, ascending."""
        size = batch // self.extent("batch")
        return [part * size + row for part in self.parts for row in range(size)]

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
    known = (*SIZES, "batch", *LENGTHS)
    for name, mesh_axes in mesh.rules:
        if name not in known:
            raise InputError(f"mesh.rules: nothing has the logical axis {name!r}; there are {', '.join(known)}")
        if unknown := set(mesh_axes) - set(AXES):
            raise InputError(f"mesh.rules: {name!r} maps to {sorted(unknown)}; the mesh has {', '.join(AXES)}")
    whole = Layout(built, mesh.rules)
    if model.attention.kv_heads < whole.extent("kv_heads"):
        whole = Layout(built, tuple(rule for rule in mesh.rules if rule[0] != "kv_heads"))
    for name, mesh_axes in whole.rules:
        size, parts = config.get_field(model, SIZES[name]) if name in SIZES else 0, whole.extent(name)
        if size % parts:
            raise InputError(
                f"model.{SIZES[name]}: mesh.{' x mesh.'.join(mesh_axes)} = {parts} does not divide {size}; "
                f"{_listed(_divisors(size))} would"
            )
    return whole


def make_mesh(mesh: config.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `AXES`. Where there are several slices, `data` is split over them first, so that only sums
    of gradients go through the slow network between them.

    Raises:
      InputError: if the sizes do not fit the number of devices, or their slices.
    """
    devices = jax.devices() if devices is None else devices
    shape, groups, kinds = _sizes(mesh, len(devices)), slices(mesh, devices), (AxisType.Auto,) * len(AXES)
    if shape[0] % groups:
        could = _nearest(shape[0], groups)
        raise InputError(f"mesh.data = {shape[0]} cannot be split over {groups} slices of devices; {could} could")
    return Mesh(arranged(shape, groups, devices), AXES, axis_types=kinds)


def arranged(shape: Sequence[int], groups: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices in this shape, whose first axis goes over groups of them, slices or else processes, before it goes
    over those of a group."""
    # where no dimension of a torus has an axis' length, an axis takes a part of one
    if groups == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    inner, outer = (shape[0] // groups, *shape[1:]), (groups, *(1 for _ in shape[1:]))
    by_process = _count(devices, "slice_index") != groups
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, process_is_granule=by_process, allow_split_physical_axes=True
    )


def _sizes(mesh: config.Mesh, count: int) -> tuple[int, ...]:
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    given = " x ".join(f"mesh.{axis} = {size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) == 2 and free[0] == "data":  # which is what it is unless a config names it
        sizes["data"], free = 1, free[1:]
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
            else f"mesh.fsdp, mesh.tensor and mesh.context must multiply to a divisor of {count}: "
            f"{_listed(_divisors(count))}"
        )
        raise InputError(f"{given} does not fit {count} device{'s' * (count > 1)}; {fits}")
    return tuple(sizes.values())


def slices(mesh: config.Mesh, devices: Sequence[jax.Device]) -> int:
    """Into how many slices the devices fall: those of a TPU; elsewhere as many as asked for, if the devices say that
    they are in so many slices, or belong to so many processes."""
    if devices[0].platform == "tpu":
        possible = [_count(devices, "slice_index")]
    else:
        possible = sorted({1, _count(devices, "slice_index"), _count(devices, "process_index")})
    if mesh.slices not in (-1, *possible):
        raise InputError(f"mesh.slices = {mesh.slices} does not fit these devices; {_listed(possible)} would")
    return possible[0] if mesh.slices == -1 else mesh.slices


def _count(devices: Sequence[jax.Device], attribute: str) -> int:
    return len({getattr(device, attribute, 0) for device in devices})


def check_batch(layout: Layout, experiment: config.Experiment) -> None:
    """Raises InputError if the rows of a microbatch, or their length, cannot be split evenly."""
    data, accumulation = experiment.data, experiment.step.accumulation
    parts = layout.extent("batch") * accumulation
    if data.batch % parts:
        raise InputError(
            f"data.batch: {data.batch} rows are not divisible by {layout.extent('batch')} (the mesh's parts of a "
            f"batch) x {accumulation} (step.accumulation); {_nearest(data.batch, parts)} would be"
        )
    lengths = {"data.length": data.length}
    if experiment.model.encoder_depth:
        lengths["data.source_length"] = data.source_length or data.length
    for field, length in lengths.items():
        for name in LENGTHS:
            parts = layout.extent(name)
            if length % parts:
                axes = " x ".join(f"mesh.{axis}" for axis in dict(layout.rules)[name])
                raise InputError(
                    f"{field}: {length} places are not divisible by {parts} ({axes}, by the rule {name!r} of "
                    f"mesh.rules); {_nearest(length, parts)} would be"
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
def logical_rules(layout: Layout | None) -> Iterator[None]:
    """While a function is traced inside, the logical constraints of models mean this layout, and its platform. None:
    one device, where they mean nothing."""
    if layout is None:
        yield
        return
    platform = layout.mesh.devices.flat[0].platform
    with (
        jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh),
        models.logical_axis_rules(layout.rules),
        models.compiled_for(platform),
    ):
        yield


def shard_batch(layout: Layout, batch: Batch) -> Batch:
    """A batch on the devices. `batch` has the `Layout.rows` of this process, in that order."""
    parts, count = layout.parts, layout.extent("batch")

    def place(array: np.ndarray) -> jax.Array:
        size = len(array) // len(parts)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start = parts.index((index[0].start or 0) // size) * size
            return array[start : start + size, index[1]]

        return jax.make_array_from_callback((size * count, array.shape[1]), layout.batch, part)

    return jax.tree.map(place, batch)


def device_put_global(tree: Any, shardings: Any) -> Any:
    """Arrays, of which every process has the whole, on the devices. `shardings` is one, or a tree of them."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    arrays = jax.tree.map(np.asarray, tree)
    each = jax.tree.map(lambda _: shardings, arrays) if isinstance(shardings, NamedSharding) else shardings
    return jax.tree.map(lambda x, to: jax.make_array_from_callback(x.shape, to, lambda index: x[index]), arrays, each)


def gather_to_host(array: jax.Array) -> np.ndarray:
    """The whole of an array on the host; with several processes on each of them, which all ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _nearest(number: int, divisor: int) -> str:
    multiples = (number // divisor * divisor, (number // divisor + 1) * divisor)
    return " or ".join(str(multiple) for multiple in multiples if multiple)


def abstract_batch(
    layout: Layout, rows: int, length: int, source_length: int | None = None, causal: bool = False
) -> Batch:
    """Shapes, types and shardings of a batch, for compiling ahead of time; with a source side if that has a length.
    `causal` as in `Batch`."""

    def side(length: int, source: Batch | None, causal: bool) -> Batch:
        tokens: Any = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=layout.batch)
        return Batch(tokens, tokens, tokens.update(dtype=jnp.float32), tokens, tokens, tokens, source, causal)

    return side(length, None if source_length is None else side(source_length, None, False), causal)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers[:12])
