"""Experiments as JSON: `save` and `load` keep one in a run folder."""

import json
import re
from pathlib import Path
from typing import Any

import cattrs
from cattrs.strategies import configure_tagged_union
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from research.config.experiment import Experiment
from research.config.objectives import Objective
from research.config.upgrade import FORMAT, upgraded
from research.errors import InputError

_converter = cattrs.Converter(forbid_extra_keys=True)
configure_tagged_union(Objective, _converter, tag_name="objective")
for _plain in (bool, int, float, str, float | str):  # cattrs itself would turn 1.5 to 1 and "False" to True
    _converter.register_structure_hook(_plain, lambda value, kind: typed(value, kind))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The tree as plain JSON types; an objective carries its class as `objective`."""
    return _converter.unstructure(experiment)


def from_dict(tree: dict[str, Any]) -> Experiment:
    """The inverse of `to_dict`. Raises InputError with the path of every wrong field."""
    try:
        return _converter.structure(tree, Experiment)
    except (cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
        wrong = cattrs.transform_error(error, "experiment", format_exception=_told)
        raise InputError("not an experiment: " + "; ".join(wrong)) from error


def typed(value: Any, kind: Any) -> Any:
    """The value itself. Raises ValueError if it is not of this type."""
    try:
        return check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        name = kind.__name__ if isinstance(kind, type) else re.sub(r"typing\.|research\.config\.", "", str(kind))
        raise ValueError(f"{value!r} is not {name}") from error


def _told(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing or unknown"
    return str(error) if isinstance(error, ValueError) else cattrs.v.format_exception(error, kind)


def save(experiment: Experiment, path: Path, **facts: Any) -> None:
    """Writes the experiment as JSON, with `facts` (versions, hardware) beside it."""
    path.write_text(json.dumps({"format": FORMAT, "experiment": to_dict(experiment), **facts}, indent=2) + "\n")


def load(path: Path) -> Experiment:
    """Reads what `save` wrote, in this version or an earlier one. Raises InputError if the file is missing or is not an
    experiment."""
    try:
        content = json.loads(path.read_text())
        tree, stored = content["experiment"], int(content.get("format", 1))
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a saved experiment: {type(error).__name__}: {error}") from error
    if stored > FORMAT:
        raise InputError(f"{path} has format {stored}, which a later version wrote; this one reads up to {FORMAT}")
    try:
        return from_dict(upgraded(tree) if stored == 1 else tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
