"""Parameters between our tree and foreign tensors: pure functions of the tables in `names`.

Foreign tensors are a mapping from name to something that can be read; ours are stacked over layers. Both ways go tensor
by tensor, so that neither side ever has to exist as a whole on the host.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from research import models
from research.config import Model
from research.errors import InputError
from research.interop.names import Names, Place, canonical, dropped, place

Shape = tuple[int, ...]
Index = tuple[slice, ...]
CHUNK = 1 << 20  # numbers that go to a device at once


class Tensor(NamedTuple):
    """A foreign tensor that has not been read yet. What `read` gives may be a view of a file."""

    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Parameter(NamedTuple):
    """One of ours. `rows` says for each layer (one, if it is not stacked) which tensor holds it; None: it does not
    exist there, because it would change nothing."""

    shape: Shape
    flat: Shape  # of a layer, with heads and their width as one axis, as everybody else has it
    stacked: bool
    place: Place
    rows: list[str | None]
    groups: int = 1  # into how many equal groups the last axis of the tensor falls, of which each holds a piece of this
    start: int = 0  # of the piece in each group
    total: int = 0  # size of a group
    rotary: int = 0  # features of a head that rotate

    @property
    def piece(self) -> int:
        """The size of the piece in each group."""
        return self.flat[-1] // self.groups


def parameters(model: Model, names: Names) -> dict[str, Parameter]:
    """Every parameter of a resolved model by its path. Raises InputError if the family lacks one."""
    out = {}
    for path, (shape, axes) in _shapes_and_axes(model).items():
        where = place(names, path)
        if where is None:
            raise InputError(f"the family has nothing like the parameter {path}")
        stacked = "layers" in axes
        layers = [where.name.format(layer=layer) for layer in range(shape[0] if stacked else 1)]
        rows = [None if name in names.absent else name for name in layers]
        out[path] = Parameter(shape, _flat(shape[stacked:], axes[stacked:]), stacked, where, rows)
    beside: dict[str, list[str]] = {}
    for path, parameter in out.items():
        beside.setdefault(parameter.place.name, []).append(path)
    for paths in beside.values():
        start, total = 0, sum(out[path].flat[-1] for path in paths)
        for path in sorted(paths, key=lambda path: out[path].place.part):
            groups = model.attention.heads if out[path].place.per_head else 1
            rotary = model.positions.rotary_width
            out[path] = out[path]._replace(groups=groups, start=start, total=total // groups, rotary=rotary)
            start += out[path].piece
    return out


def check_sizes(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Raises InputError if the sizes of a model are not borne out by its tensors, before anything is made by them."""
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    attention, positions = model.attention, model.positions
    counted = {"depth": model.depth, "encoder_depth": model.encoder_depth}
    wide = {"vocabulary": model.vocabulary, "width": model.width, "mlp.width": model.mlp.width}
    wide |= {"attention.heads": attention.heads, "attention.kv_heads": attention.kv_heads}
    wide |= {"attention.head_width": attention.head_width}
    wide |= {"attention.heads x head_width": max(attention.heads, 0) * max(attention.head_width, 0)}
    wide |= {"positions.max_length": positions.max_length} if positions.kind == "learned" else {}
    wide |= {"positions.buckets": positions.buckets} if positions.kind == "relative" else {}
    for sizes, most, what in ((counted, len(tensors), "there are {} tensors"), (wide, largest, "no size is above {}")):
        for name, size in sizes.items():
            if not -1 <= size <= most:
                raise InputError(f"the model's {name} is said to be {size}, but of its tensors {what.format(most)}")


@functools.cache
def _shapes_and_axes(model: Model) -> dict[str, tuple[Shape, tuple[str | None, ...]]]:
    shapes = models.flatten(jax.eval_shape(lambda: models.init(model, jax.random.key(0))))
    axes = models.flatten(models.axes(model))
    return {path: (leaf.shape, axes[path]) for path, leaf in shapes.items()}


def load_params(
    model: Model,
    names: Names,
    tensors: Mapping[str, Tensor],
    shardings: Any = None,
    finish: Callable[[str, jax.Array], Mapping[str, jax.Array]] = lambda path, array: {path: array},
    dtype: str = "float32",
) -> models.Params:
    """Foreign tensors as our parameters. One tensor, and a chunk of it as float32, is on the host at a time;
    parameters grow on the devices that hold them.

    Args:
      model: resolved.
      names: of the family.
      tensors: of any float type.
      shardings: a tree as of the parameters; None: everything on the first device.
      finish: makes of each parameter, given its path and itself, those that are kept in its place.
      dtype: of the parameters, a float type.

    Raises:
      InputError: if tensors are missing, left over, or of another shape; it names them.
    """
    there = models.flatten(shardings) if shardings is not None else {}
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    leaves: dict[str, jax.Array] = {}
    for path, parameter in _found(parameters(model, names), names, tensors).items():
        leaves |= finish(path, _assembled(parameter, tensors, there.get(path, first), jnp.dtype(dtype)))
    return models.unflatten(leaves)


def shapes(model: Model, names: Names) -> dict[str, Shape]:
    """The foreign tensors of a model and their shapes, in the order of `export`."""
    return {name: _expected(found[0][0]) for name, found in _pieces(model, names).items()}


def export(model: Model, names: Names, params: models.Params) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters as foreign tensors, one by one."""
    leaves = models.flatten(params)
    for name, found in _pieces(model, names).items():
        parts = [
            _theirs(np.asarray(leaves[path][layer] if parameter.stacked else leaves[path]), parameter)
            for parameter, path, layer in found
        ]
        whole = np.concatenate(parts, axis=-1)
        whole = whole.reshape(*whole.shape[:-2], -1)
        yield name, whole.T if found[0][0].place.transposed else whole


def _pieces(model: Model, names: Names) -> dict[str, list[tuple[Parameter, str, int]]]:
    """For each foreign tensor what it consists of, in order: our parameter, its path, and the layer."""
    out: dict[str, list[tuple[Parameter, str, int]]] = {}
    for path, parameter in parameters(model, names).items():
        for layer, name in enumerate(parameter.rows):
            if name is not None:
                out.setdefault(name, []).append((parameter, path, layer))
    return {name: sorted(found, key=lambda piece: piece[0].place.part) for name, found in out.items()}


def _expected(parameter: Parameter) -> Shape:
    """The shape of the tensor that a parameter lies in."""
    whole = (*parameter.flat[:-1], parameter.groups * parameter.total)
    return whole[::-1] if parameter.place.transposed else whole


def _flat(shape: Shape, axes: tuple[str | None, ...]) -> Shape:
    out: list[int] = []
    for size, name in zip(shape, axes, strict=True):
        if name == "head" and out:
            out[-1] *= size
        else:
            out.append(size)
    return tuple(out)


def _found(ours: dict[str, Parameter], names: Names, tensors: Mapping[str, Tensor]) -> dict[str, Parameter]:
    """The parameters with the names that tensors really have. Raises InputError if the two sides do not match."""
    known = {name for parameter in ours.values() for name in parameter.rows if name is not None}
    known |= {name for copy in names.copies for name in copy}
    actual = {canonical(names, name, known): name for name in tensors}
    used, missing, wrong, out = set(), [], [], {}
    for path, parameter in ours.items():
        expected, rows = _expected(parameter), []
        for name in parameter.rows:
            same = (name, *(copy for original, copy in names.copies if original == name))
            found = next((actual[one] for one in same if one in actual), None)
            if name is not None and found is None:
                missing.append(name)
            elif found is not None and tensors[found].shape != expected:
                wrong.append(f"{found} is {list(tensors[found].shape)}, not {list(expected)}")
            elif found is not None and not jnp.issubdtype(tensors[found].dtype, jnp.floating):
                wrong.append(f"{found} is of {tensors[found].dtype}, not of a float type")
            rows.append(found)
            used.add(found)
        out[path] = parameter._replace(rows=rows)
    for original, copy in names.copies:
        one, other = actual.get(original), actual.get(copy)
        if one is not None and other is not None and other not in used:
            used.add(other)
            if not _equal(tensors[one].read(), tensors[other].read()):
                wrong.append(f"{other} differs from {one}, with which it is tied")
    passed = dropped(names)
    left = [name for full, name in actual.items() if name not in used and not passed.fullmatch(full)]
    for label, these in (("missing", missing), ("left over", left)):
        if these:
            more = f" and {len(these) - 8} more" if len(these) > 8 else ""
            wrong.append(f"{label}: {', '.join(these[:8])}{more}")
    if wrong:
        raise InputError("the tensors do not fit the model:\n  " + "\n  ".join(wrong[:12]))
    return out


def _ours(theirs: np.ndarray, parameter: Parameter) -> np.ndarray:
    """Our parameter, of one layer, as a view of the tensor that it lies in; without the offset of its place."""
    where, shape = parameter.place, parameter.shape[parameter.stacked :]
    array = theirs.T if where.transposed else theirs
    groups = array.reshape(*array.shape[:-1], parameter.groups, parameter.total)
    array = groups[..., parameter.start : parameter.start + parameter.piece].reshape(shape)
    return _pairs(array, parameter.rotary, (-1, 2)) if where.interleaved else array


def _theirs(ours: np.ndarray, parameter: Parameter) -> np.ndarray:
    """The inverse of `_ours`, as `[…, groups, piece]`."""
    if parameter.place.interleaved:
        ours = _pairs(ours, parameter.rotary, (2, -1))
    return ours.reshape(*parameter.flat[:-1], parameter.groups, parameter.piece) - ours.dtype.type(
        parameter.place.offset
    )


def _pairs(heads: np.ndarray, width: int, split: tuple[int, int]) -> np.ndarray:
    """Of the first `width` features of each head the pairs that rotate together: by (-1, 2) from neighbours to halves,
    by (2, -1) back."""
    lead = heads.shape[:-1]
    turned = heads[..., :width].reshape(*lead, *split).swapaxes(-1, -2).reshape(*lead, width)
    return turned if width == heads.shape[-1] else np.concatenate([turned, heads[..., width:]], axis=-1)


def tied(tensors: Mapping[str, Tensor], one: str, other: str) -> bool:
    """Whether a tensor lacks another one beside it, or that is its copy."""
    found = [next((tensor for name, tensor in tensors.items() if name.endswith(end)), None) for end in (one, other)]
    return any(each is None for each in found) or _equal(*(each.read() for each in found if each is not None))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and all(np.array_equal(a[i : i + 4096], b[i : i + 4096]) for i in range(0, len(a), 4096))


def _assembled(parameter: Parameter, tensors: Mapping[str, Tensor], sharding: Sharding, dtype: np.dtype) -> jax.Array:
    """As `jax.make_array_from_callback` would make it from the whole parameter, which is never on the host."""
    indices = sharding.addressable_devices_indices_map(parameter.shape)
    holders: dict[Shape, tuple[Index, list[jax.Device]]] = {}
    for device, index in indices.items():
        assert index is not None
        ranges = tuple(part.indices(size)[:2] for part, size in zip(index, parameter.shape, strict=True))
        whole = tuple(slice(*ends) for ends in ranges)
        holders.setdefault(tuple(np.ravel(ranges)), (whole, []))[1].append(device)
    arrays: dict[jax.Device, jax.Array] = {}
    for index, devices in holders.values():
        shape = tuple(part.stop - part.start for part in index)
        parts = {device: jnp.zeros(shape, dtype, device=device) for device in devices}
        for start, chunk in _chunks(parameter, tensors, index):
            chunk = chunk.astype(dtype, copy=False)
            for device, part in parts.items():
                parts[device] = jax.block_until_ready(_put(part, jax.device_put(chunk, device), start))
        arrays |= parts
    return jax.make_array_from_single_device_arrays(parameter.shape, sharding, [arrays[device] for device in indices])


@functools.partial(jax.jit, donate_argnums=0)
def _put(whole: jax.Array, part: jax.Array, start: tuple[int, ...]) -> jax.Array:
    return jax.lax.dynamic_update_slice(whole, part, start)


def _chunks(
    parameter: Parameter, tensors: Mapping[str, Tensor], index: Index
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """A part of one of our parameters in pieces, with where in it each begins."""
    layers, inner = (index[0], index[1:]) if parameter.stacked else (slice(0, 1), index)
    shape = tuple(part.stop - part.start for part in inner)
    rows = max(1, CHUNK // math.prod(shape[1:]))
    offset = np.float32(parameter.place.offset)
    for layer, name in enumerate(parameter.rows[layers]):
        theirs = None if name is None else _ours(tensors[name].read(), parameter)[inner]
        for row in range(0, shape[0], rows):
            size = (min(rows, shape[0] - row), *shape[1:])
            chunk = (
                np.ones(size, np.float32)
                if theirs is None
                else np.array(theirs[row : row + rows], np.float32, order="C")
            )
            if theirs is not None and offset:
                chunk += offset
            start = (row,) + (0,) * (len(shape) - 1)
            yield ((layer, *start), chunk[None]) if parameter.stacked else (start, chunk)
