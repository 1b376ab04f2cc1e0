"""A run folder: all that a later command needs to know about a run, in one place.

experiment.json   the resolved experiment, the identity of the run, versions and hardware
tokenizer/        as it was used
checkpoints/      one folder a step
metrics.jsonl     what the run showed; tensorboard/ has the same
owner.json        while a process trains: which one
profile/          traces of steps, if asked for
result.json       written at the end
report.html       all of this on one page

Every file is written whole or not at all.
"""

import json
import platform
import secrets
import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from research import config
from research.config import Experiment
from research.data import cache, json_forms
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.runs import forms
from research.runtime import code_version, files

RESULT_FORMAT = 2  # of result.json; 1: without this number
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# what may change when a run is resumed: how it is computed and shown, not what is computed
FREE = (
    "schedule.steps",
    "mesh",
    "checkpoint",
    "evaluation",
    "bad_steps",
    "logging",
    "data.workers",
    "data.cache",
    "data.prepared",
    "compilation_cache_dir",
)


def check(folder: Path, experiment: Experiment) -> None:
    """Makes the folder. `experiment` need not be resolved.

    Raises:
      InputError: if it holds a run of another experiment, naming what differs, or if no checkpoint could be saved
        there.
    """
    changed = [line for path, line in _changes(folder, experiment) if not _is_free(path)]
    if changed:
        raise InputError(
            f"{folder} holds a run of another experiment; choose another --workdir or remove it. Different are:\n  "
            + "\n  ".join(changed)
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--workdir {folder}: is a file, or lies below one") from error
    except PermissionError as error:
        raise InputError(f"--workdir {folder}: {error.strerror}") from error
    _check_renames(folder)


def changes(folder: Path, experiment: Experiment) -> list[str]:
    """A line with both values for each field that differs from the run in the folder, and may."""
    return [line for path, line in _changes(folder, experiment) if _is_free(path)]


def claim(folder: Path, experiment: Experiment, tokenizer: Tokenizer, data: dict[str, str] | None = None) -> None:
    """Writes what is known about the run before it begins.

    Args:
      experiment: resolved.
      data: what the run reads (`Corpus.contents`); None: it takes no steps.

    Raises:
      InputError: as `check`, and if the run in the folder has read other data.
    """
    check(folder, experiment)
    path = folder / "experiment.json"
    stored: dict[str, Any] = json_forms.read_json(path, forms.ANY) or {"run": secrets.token_hex(8)}
    check_data(folder, data or {})
    if not (folder / "tokenizer").is_dir():
        with cache.building(folder / "tokenizer") as unfinished:
            tokenizer.save(unfinished)
            files.sync_folder(unfinished)
    config.save(experiment, path, run=stored.get("run"), data=data or stored.get("data"), **_facts())


def check_shared(folder: Path) -> None:
    """Waits until one of several processes has claimed the folder. Raises InputError if it is not the folder of all."""
    if jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("run folder")
    if not (folder / "experiment.json").exists():
        raise InputError(f"{folder.absolute()} of process {jax.process_index()} is not that of process 0; share a disk")


def drop_result(folder: Path) -> None:
    """Removes the result of an earlier end of a run that takes further steps."""
    (folder / "result.json").unlink(missing_ok=True)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes `result.json`."""
    files.write_atomically(folder / "result.json", json.dumps({"format": RESULT_FORMAT, **result}, indent=2) + "\n")


def read_result(folder: Path) -> dict[str, Any] | None:
    """What `write_result` was given; None: the run is not complete. Raises InputError if it has another format
    or form."""
    path = folder / "result.json"
    result: dict[str, Any] | None = json_forms.read_json(path, forms.ANY)
    if result is None:
        return None
    number = result.pop("format", 1)
    if number not in (1, RESULT_FORMAT):
        raise InputError(f"{path} has format {number}; this version reads 1 and {RESULT_FORMAT}")
    if wrong := forms.RESULT(result):
        raise InputError(f"{path}: it{wrong}" if wrong.startswith(" ") else f"{path}: {wrong.lstrip('.')}")
    return result


def _check_renames(folder: Path) -> None:
    """A checkpoint becomes visible when its folder is renamed, which not every mounted bucket can do."""
    try:
        before = Path(tempfile.mkdtemp(prefix=f"{files.UNFINISHED}renaming-", dir=folder))
    except PermissionError as error:
        raise InputError(f"--workdir {folder}: {error.strerror}") from error
    after = before.with_suffix(".renamed")
    try:
        (before / "file").touch()
        before.rename(after)
    except OSError as error:
        if files.storage_error(error):
            raise
        raise InputError(
            f"{folder}: no checkpoint could be saved there, for a folder cannot be renamed: {error}. If it is in a "
            "bucket: those of Google Cloud Storage with hierarchical namespace can"
        ) from error
    finally:
        for left in (before, after):
            shutil.rmtree(left, ignore_errors=True)


def _facts() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "commit": code_version.commit(),
        "hardware": {"kind": device.device_kind, "devices": jax.device_count(), "processes": jax.process_count()},
    }


def check_data(folder: Path, data: dict[str, str]) -> None:
    """Raises InputError if the content of a source (`Corpus.contents`) is not what the run in the folder has read,
    though its name is; nothing is known of the data of older runs."""
    path = folder / "experiment.json"
    stored = (json_forms.read_json(path, forms.ANY) or {}).get("data") or {}
    changed = [
        f"{use}: {stored[use]} there, {data[use]} here" for use in data if stored.get(use, data[use]) != data[use]
    ]
    if changed:
        raise InputError(
            f"{folder} holds a run on other data; restore the data, or choose another --workdir. Different are:\n  "
            + "\n  ".join(changed)
        )


def _is_free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def _changes(folder: Path, experiment: Experiment) -> list[tuple[str, str]]:
    """Path, and a line with both values, of every field that differs from the run in the folder, if there is one."""
    path = folder / "experiment.json"
    if not path.exists():
        return []
    stored = config.load(path)
    longest = max(experiment.data.length, experiment.data.source_length or 0)
    resolved = replace(experiment, model=config.resolve(experiment.model, stored.model.vocabulary, longest))
    return _differences(config.to_dict(stored), config.to_dict(resolved))


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = {**old, **new}
        parts = (_differences(old.get(n), new.get(n), f"{path}.{n}" if path else n) for n in names)
        return [difference for part in parts for difference in part]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in _differences(a, b, f"{path}.{index}")]
    return [] if old == new else [(path, f"{path}: {old!r} there, {new!r} here")]
