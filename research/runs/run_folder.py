"""A run folder: all that a later command needs to know about a run, in one place.

experiment.json   the resolved experiment, versions and hardware
tokenizer/        as it was used
checkpoints/      one folder a step
metrics.jsonl     what the run showed; tensorboard/ has the same
profile/          traces of steps, if asked for
result.json       written at the end
report.html       all of this on one page
"""

import json
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from research import config
from research.config import Experiment
from research.data.tokenizers import Tokenizer
from research.errors import InputError

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# what may change when a run goes on: how it is computed and shown, not what is computed
FREE = ("schedule.steps", "mesh", "checkpoint", "evaluation", "logging", "data.workers", "data.cache", "compilation_cache_dir")


def claim(folder: Path, experiment: Experiment, tokenizer: Tokenizer) -> None:
    """Makes the folder, or checks that it holds the same experiment. Raises InputError, naming what differs, if not, or
    if no checkpoint could be saved there."""
    path = folder / "experiment.json"
    if path.exists():
        changed = _differences(config.to_dict(config.load(path)), config.to_dict(experiment))
        if changed:
            raise InputError(
                f"{folder} holds a run of another experiment; choose another --workdir or remove it. Different are:\n  "
                + "\n  ".join(changed)
            )
    folder.mkdir(parents=True, exist_ok=True)
    _check_renames(folder)
    tokenizer.save(folder / "tokenizer")
    config.save(experiment, path, **_facts())


def check_shared(folder: Path) -> None:
    """Waits until one of several processes has claimed the folder. Raises InputError if it is not the folder of all."""
    if jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("run folder")
    if not (folder / "experiment.json").exists():
        raise InputError(f"{folder.absolute()} of process {jax.process_index()} is not that of process 0; share a disk")


def _check_renames(folder: Path) -> None:
    """A checkpoint becomes visible when its folder is renamed, which not every mounted bucket can do."""
    before = Path(tempfile.mkdtemp(prefix=".renaming-", dir=folder))
    after = before.with_suffix(".renamed")
    try:
        (before / "file").touch()
        before.rename(after)
    except OSError as error:
        raise InputError(
            f"{folder}: no checkpoint could be saved there, for a folder cannot be renamed: {error}. If it is in a "
            "bucket: those of Google Cloud Storage with hierarchical namespace can"
        ) from error
    finally:
        for left in (before, after):
            shutil.rmtree(left, ignore_errors=True)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes `result.json`."""
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def _facts() -> dict[str, Any]:
    device = jax.devices()[0]
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "commit": commit.stdout.strip() or None,
        "hardware": {"kind": device.device_kind, "devices": jax.device_count(), "processes": jax.process_count()},
    }


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if path in FREE:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        names = {**old, **new}
        parts = (_differences(old.get(n), new.get(n), f"{path}.{n}" if path else n) for n in names)
        return [line for part in parts for line in part]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in _differences(a, b, f"{path}.{index}")]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} here"]
