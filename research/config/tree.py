"""Fields of a tree of dataclasses by their paths, such as "attention.heads"."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from typing import Any, TypeVar

T = TypeVar("T")


def get_field(tree: Any, path: str) -> Any:
    """The value at a path."""
    return reduce(getattr, path.split("."), tree)


def replace_fields(tree: T, changes: Mapping[str, Any]) -> T:
    """`dataclasses.replace` by paths: `replace_fields(model, {"width": 512, "attention.heads": 8})`."""
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        nested.setdefault(name, {})[rest] = value
    direct = {
        name: inner[""] if "" in inner else replace_fields(getattr(tree, name), inner) for name, inner in nested.items()
    }
    return replace(tree, **direct)  # type: ignore[type-var]


def field_paths(kind: Any) -> list[str]:
    """The paths of all fields of a class, those of the parts that are always there included."""
    paths = []
    for each in fields(kind):
        inner = field_paths(each.type) if is_dataclass(each.type) else []
        paths += [f"{each.name}.{path}" for path in inner] or [each.name]
    return paths
