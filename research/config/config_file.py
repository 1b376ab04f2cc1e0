"""Config files: Python with a function `get_config() -> Experiment`, or the `experiment.json` of a run."""

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from research.config import storage
from research.config.experiment import Experiment
from research.errors import InputError


def read(path: Path) -> Experiment:
    """What `get_config()` of a config file returns, or the experiment that a run's `experiment.json` holds. A config
    file can import the files beside it.

    Raises:
      InputError: with the place in the file, if it is missing, fails, or returns something else.
    """
    if not path.is_file():
        beside = ", ".join(sorted(other.name for other in path.parent.glob("*.py")))
        raise InputError(f"there is no config file {path}" + (f"; {path.parent} has {beside}" if beside else ""))
    if path.suffix == ".json":
        return storage.load(path)
    experiment = _call(path)
    if not isinstance(experiment, Experiment):
        raise InputError(f"{path}: get_config() returned {type(experiment).__name__}, not an Experiment")
    return experiment


def _call(path: Path) -> Any:
    name = f"<{path.name}>"  # which no import could mean
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is neither Python (.py) nor a saved experiment (.json)")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    sys.modules[name] = module  # where annotations that are text are looked up
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError("there is no function get_config() -> Experiment")
        return module.get_config()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(path) else []
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise InputError(f"{place}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
