"""Edits: what is put at a named place of the forward pass instead of what the model computes there.

    lm.run(text, edits=[edits.zero("attention/heads", layer=3, head=2)])
    lm.run(text, edits=[edits.resample("residual", other, layer=5, token=-1)])
    lm.run(text, edits=[edits.add("residual", 4 * direction, layer=6)])

An edit is a function of the array at a place and of a value, and says by the names of the axes (see `models.places`)
where it acts: an index, several, or a slice; an axis that is not named is meant whole. Indices of tokens count within
each text; negative ones from its end. The value has the axes of the place, as a recorded array does, or fewer, from the
right: a vector of the width of the model serves all layers, texts and tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.errors import InputError
from research.models import places
from research.models.places import Change, Changes

Index = int | slice | Sequence[int]
OF_TEXT = ("token", "key", "source")  # axes that are as long as a text


class Recorded(Protocol):
    """What an edit needs of another run (`inside.ForwardPass`)."""

    def __getitem__(self, name: str) -> np.ndarray: ...

    def mean(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Edit:
    """`function(what is there, value)`, at the places whose names match, `at` some indices of their axes."""

    place: str  # a name, or a pattern: see `select`
    function: Callable[[Array, Any], Array]
    value: Any = 0.0
    at: Mapping[str, Index] = field(default_factory=dict)


@dataclass(frozen=True)
class Lengths:
    """How many tokens each text of a batch has, and what each source of an encoder-decoder has."""

    token: tuple[int, ...]
    source: tuple[int, ...] | None = None

    def of(self, name: str, axis: str) -> tuple[int, ...]:
        """Along an axis of a place."""
        side = self.source if axis == "source" or name.startswith("encoder/") else self.token
        assert side is not None
        return side


def set(place: str, value: Any, **at: Index) -> Edit:
    """The value, whatever was there."""
    return Edit(place, _set, value, at)


def add(place: str, value: Any, **at: Index) -> Edit:
    """The sum of what is there and the value."""
    return Edit(place, added, value, at)


def scale(place: str, factor: Any, **at: Index) -> Edit:
    """The product of what is there and a factor."""
    return Edit(place, _scale, factor, at)


def zero(place: str, **at: Index) -> Edit:
    """Nothing."""
    return set(place, 0.0, **at)


def mean(place: str, other: Recorded, **at: Index) -> Edit:
    """The mean of a recorded place over all tokens of the texts of another run."""
    return set(place, other.mean(place), **at)


def resample(place: str, other: Recorded, **at: Index) -> Edit:
    """What another run, of texts with as many tokens, recorded at this place: activation patching."""
    return set(place, other[place], **at)


def project_out(place: str, direction: Any, **at: Index) -> Edit:
    """What is there without its part along a direction (Arditi et al. 2024, equation 4)."""
    direction = np.asarray(direction, np.float32)
    return Edit(place, _project_out, direction / np.linalg.norm(direction, axis=-1, keepdims=True), at)


def freeze_attention(other: Recorded, **at: Index) -> Edit:
    """The attention weights of another run; then values move as they did there."""
    return resample("attention/weights", other, **at)


def adapters_off(**at: Index) -> Edit:
    """The model without its low-rank adapters."""
    return zero("adapter", **at)


def apply(place: str, function: Callable[[Array, Any], Array], value: Any = 0.0, **at: Index) -> Edit:
    """Any function of the array at a place, in JAX. It is compiled once for each function, not for each value."""
    return Edit(place, function, value, at)


def _set(x: Array, value: Array) -> Array:
    return jnp.broadcast_to(value, x.shape)


def added(x: Array, value: Array) -> Array:
    """What `add` computes."""
    return x + value


def _scale(x: Array, value: Array) -> Array:
    return x * value


def _project_out(x: Array, unit: Array) -> Array:
    return x - jnp.sum(x * unit, axis=-1, keepdims=True) * unit


def select(pattern: str, known: Mapping[str, Any]) -> list[str]:
    """The places whose whole name, or end of it, matches a pattern: "residual", "attention/*", "encoder/*".

    Raises:
      InputError: if there is none.
    """
    found = [name for name in known if fnmatchcase(name, pattern) or fnmatchcase(name, f"*/{pattern}")]
    if not found:
        raise InputError(f"there is no place {pattern!r} in this model; there are {', '.join(sorted(known))}")
    return found


def changes(
    edits: Sequence[Edit],
    known: Mapping[str, Any],
    lengths: Lengths,
    made: dict[tuple[int, str], np.ndarray] | None = None,
) -> Changes:
    """Edits as arrays.

    Args:
      edits: applied one after the other, where several are of one place.
      known: the shape of every place, padding included.
      lengths: of the texts without padding.
      made: values by their identity and place, kept between calls that share them.

    Raises:
      InputError: if a place, an axis, an index or the shape of a value does not fit.
    """
    found: dict[str, tuple[Change, ...]] = {}
    made = {} if made is None else made
    for edit in edits:
        for name in select(edit.place, known):
            shape = known[name].shape
            key = id(edit.value), name
            if key not in made:
                made[key] = _value(edit.value, name, shape, lengths)
            change = Change(edit.function, _where(edit.at, name, shape, lengths), made[key])
            found[name] = (*found.get(name, ()), change)
    return found


def indices(index: Index, size: int, axis: str, name: str) -> list[int]:
    """An index as a list of them. Raises InputError if it is out of range."""
    if isinstance(index, slice):
        return list(range(size)[index])
    several = [index] if isinstance(index, int | np.integer) else list(index)
    outside = [each for each in several if not -size <= each < size]
    if outside:
        raise InputError(f"{axis}={outside[0]}: {name!r} has {size} there, from 0 to {size - 1}")
    return [int(each) % size for each in several]


def check_axes(at: Mapping[str, Index], name: str) -> tuple[str, ...]:
    """The axes of a place. Raises InputError for one that it does not have."""
    axes = places.axes(name)
    unknown = [axis for axis in at if axis not in axes]
    if unknown:
        raise InputError(f"{name!r} has no axis {unknown[0]!r}; it has {', '.join(axes)}")
    return axes


def _where(at: Mapping[str, Index], name: str, shape: tuple[int, ...], lengths: Lengths) -> np.ndarray:
    """Which of the array is meant: with a whole axis of layers, the others of size 1 where all of them are."""
    axes = check_axes(at, name)
    where = np.ones([size if axis == "layer" else 1 for axis, size in zip(axes, shape, strict=True)], bool)
    for axis, index in at.items():
        number = axes.index(axis)
        if axis in OF_TEXT:
            own = np.zeros((shape[axes.index("text")], shape[number]), bool)
            for text, length in enumerate(lengths.of(name, axis)):
                own[text, indices(index, length, axis, name)] = True
            wide = [size if each in ("text", axis) else 1 for each, size in zip(axes, shape, strict=True)]
        else:
            own = np.zeros((1, shape[number]), bool)
            own[0, indices(index, shape[number], axis, name)] = True
            wide = [size if each == axis else 1 for each, size in zip(axes, shape, strict=True)]
        where = where & own.reshape(wide)
    return where


def _value(value: Any, name: str, shape: tuple[int, ...], lengths: Lengths) -> np.ndarray:
    """A value with all axes of its place: a whole one of layers, padded ones of tokens."""
    axes, given = places.axes(name), np.asarray(value)
    if given.ndim > len(axes):
        raise InputError(f"a value of shape {given.shape} does not fit {name!r}, which has the axes {', '.join(axes)}")
    full = given.reshape((1,) * (len(axes) - given.ndim) + given.shape)
    for number, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        expected = max(lengths.of(name, axis)) if axis in OF_TEXT else size
        if full.shape[number] not in (1, expected):
            raise InputError(
                f"a value of shape {given.shape} does not fit {name!r}: along {axis!r} it has {full.shape[number]}, "
                f"where 1 or {expected} would"
            )
        if full.shape[number] != 1 and expected < size:
            full = np.pad(full, [(0, size - expected if each == number else 0) for each in range(full.ndim)])
    if axes[0] == "layer":
        full = np.broadcast_to(full, (shape[0], *full.shape[1:]))
    return full
