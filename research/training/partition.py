"""Training a part of the parameters: what is frozen is neither differentiated nor known to the optimizer."""

import difflib
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

from research import models
from research.config import Experiment
from research.errors import InputError
from research.models import adapters


def frozen(experiment: Experiment) -> frozenset[str]:
    """The paths of the parameters that are not trained: those that a pattern of `frozen` matches, and all but adapters
    where there are any. Of a resolved experiment.

    Raises:
      InputError: if a pattern matches nothing, or nothing is left to train.
    """
    model = experiment.model
    paths = list(models.flatten(models.axes(model)))
    for pattern in experiment.frozen:
        if not any(fnmatch(path, pattern) for path in paths):
            nearest = difflib.get_close_matches(pattern, paths, n=3, cutoff=0)
            raise InputError(f"frozen: no parameter matches {pattern!r}; nearest: {', '.join(nearest)}")
    found = {path for path in paths if any(fnmatch(path, pattern) for pattern in experiment.frozen)}
    if model.lora is not None:
        found |= {path for path in paths if not adapters.is_adapter(path)}
    if len(found) == len(paths):
        targets = "" if model.lora is None else f" (model.lora.targets {model.lora.targets} may match no projection)"
        raise InputError(f"frozen: no parameter is left to train{targets}")
    return frozenset(found)


def partition(tree: Any, frozen: Collection[str]) -> tuple[Any, Any]:
    """A tree as of the parameters in two: what is trained, and what is frozen."""
    leaves = models.flatten(tree)
    parts = ({path: leaf for path, leaf in leaves.items() if (path in frozen) == side} for side in (False, True))
    trained, fixed = map(models.unflatten, parts)
    return trained, fixed


def combine(trained: Any, fixed: Any) -> Any:
    """The inverse of `split`."""
    return models.unflatten(models.flatten(trained) | models.flatten(fixed))
