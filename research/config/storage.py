"""Experiments as JSON: `save` and `load` keep one in a run folder."""

import importlib
import json
import re
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from research.config.experiment import Experiment
from research.config.upgrade import FORMAT, upgraded
from research.errors import InputError
from research.objectives import SHIPPED, Objective
from research.runtime import files

TAG = "objective"  # the field of a stored objective that names its class
_NAMES = {kind.__name__: kind for kind in SHIPPED}
_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Objective, lambda objective: _objective_to_dict(objective))
_converter.register_structure_hook(Objective, lambda tree, _: _objective_from_dict(tree))
for _plain in (bool, int, float, str, float | str):  # cattrs itself would turn 1.5 to 1 and "False" to True
    _converter.register_structure_hook(_plain, lambda value, kind: typed(value, kind))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The tree as plain JSON types; an objective carries its class as `objective`. Raises InputError if that is not
    shipped and cannot be imported."""
    return _converter.unstructure(experiment)


def from_dict(tree: dict[str, Any]) -> Experiment:
    """The inverse of `to_dict`. Raises InputError with the path of every wrong field."""
    try:
        return _converter.structure(tree, Experiment)
    except (cattrs.BaseValidationError, TypeError, ValueError, KeyError, AttributeError) as error:
        wrong = cattrs.transform_error(error, "experiment", format_exception=_told)
        raise InputError("not an experiment: " + "; ".join(wrong)) from error


def typed(value: Any, kind: Any) -> Any:
    """The value itself. Raises ValueError if it is not of this type; true and false are no numbers."""
    try:
        if isinstance(value, bool) and not {bool, Any} & {kind, *get_args(kind)}:
            raise TypeCheckError("a truth value")
        return check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        name = kind.__name__ if isinstance(kind, type) else re.sub(r"typing\.|research\.config\.", "", str(kind))
        raise ValueError(f"{value!r} is not {name}") from error


def _objective_to_dict(objective: Objective) -> dict[str, Any]:
    if wrong := not_importable(objective):
        raise InputError(f"objective {objective.name!r}: {wrong}")
    fields = make_dict_unstructure_fn(type(objective), _converter)(objective)
    return {**fields, TAG: class_name(type(objective))}


def _objective_from_dict(tree: dict[str, Any]) -> Objective:
    fields = dict(tree)
    kind = objective_class(fields.pop(TAG))
    made: Objective = make_dict_structure_fn(kind, _converter, _cattrs_forbid_extra_keys=True)(fields, kind)
    return made


def class_name(kind: type[Objective]) -> str:
    """How an objective's class is stored: by its name, or as MODULE:CLASS if it is not shipped."""
    return kind.__name__ if _NAMES.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__qualname__}"


def not_importable(objective: Objective) -> str | None:
    """Why the class of an objective could not be found again by its stored name; None: it can."""
    kind = type(objective)
    try:
        if _is_found(kind.__module__) and objective_class(class_name(kind)) is kind:
            return None
    except (KeyError, ValueError):
        pass
    return f"{kind.__qualname__} cannot be imported from {kind.__module__!r}; define it in a module on PYTHONPATH"


def _is_found(module: str) -> bool:
    """Whether another process finds a module, be it on its path or by the finder of an editable installation. The
    modules of config files, and __main__, are loaded here, but found by nobody."""
    top = module.partition(".")[0]
    return module in sys.modules and any(finder.find_spec(top, None) is not None for finder in sys.meta_path)


def objective_class(name: str) -> type[Objective]:
    """The inverse of `class_name`. Raises KeyError for a name without a module, ValueError if it leads nowhere."""
    if name in _NAMES:
        return _NAMES[name]
    module, colon, path = name.partition(":")
    if not colon:
        raise KeyError(name)
    try:
        found = attrgetter(path)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ValueError(f"{name} is not a class of objectives")
    return found


def _told(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing or unknown"
    return str(error) if isinstance(error, ValueError) else cattrs.v.format_exception(error, kind)


def save(experiment: Experiment, path: Path, **facts: Any) -> None:
    """Writes the experiment as JSON, with `facts` (versions, hardware) beside it."""
    tree = {"format": FORMAT, "experiment": to_dict(experiment), **facts}
    files.write_atomically(path, json.dumps(tree, indent=2) + "\n")


def load(path: Path) -> Experiment:
    """Reads what `save` wrote, in this version or an earlier one. Raises InputError if the file is missing, is not an
    experiment, or has a format of a later version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        tree, stored = content["experiment"], int(content.get("format", 1))
    except (OSError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a saved experiment: {type(error).__name__}: {error}") from error
    if stored not in (1, FORMAT):
        raise InputError(f"{path} has format {stored}; this version reads 1 and {FORMAT}")
    try:
        return from_dict(upgraded(tree) if stored == 1 and isinstance(tree, dict) else tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
