"""Checkpoints of a run, written by Orbax in the background; the only file that imports it.

A run folder has `checkpoints/STEP/params` (all that a model needs), `checkpoints/STEP/training` (the rest of the
state) and `checkpoints/STEP/manifest` (which run it is of, and what the run carries on the host). Orbax makes a
checkpoint visible at once when it is complete, so a killed save leaves only what is ignored; and it restores arrays
onto any mesh. What it does not do is notice a flipped bit. Therefore each process hashes the chunks of arrays that it
has stored, before the checkpoint becomes visible, and a restore compares. Hashed are the stored bytes, read back: that
needs no memory and no blocking of the training, and holds whichever mesh reads them.
"""

import json
import shutil
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
import xxhash
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import CheckpointManager as Manager
from orbax.checkpoint import checkpoint_managers as policies

from research import config
from research.errors import InputError
from research.models import Params
from research.training.state import TrainState

FOLDER = "checkpoints"
FORMAT = 2  # of a checkpoint; 1: without a manifest
ITEMS = ("params", "training")
MANIFEST = "manifest"
THREADS = 8  # chunks that are hashed at once
LATEST = 60.0  # seconds after the arrays by which Orbax has written what it says of them


def manager(run: Path, checkpoint: config.Checkpoint) -> Manager:
    """What `save` needs. Leaving it as a context waits for the last save; every process of a run opens it."""
    keep = [policies.LatestN(checkpoint.keep_last)]
    if checkpoint.keep_every is not None:
        keep.append(policies.EveryNSteps(checkpoint.keep_every))
    if checkpoint.keep_best:
        keep.append(policies.BestN(get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False))
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in ITEMS:
        registry.add(item, ocp.args.StandardSave, _Hashed())
    registry.add(MANIFEST, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep),
        best_fn=_loss if checkpoint.keep_best else None,
        best_mode="min",
        cleanup_tmp_directories=True,
    )
    return Manager((run / FOLDER).absolute(), options=options, handler_registry=registry)


def save(
    manager: Manager, state: TrainState, loss: float | None = None, progress: dict[str, Any] | None = None
) -> None:
    """Copies the state to the host and writes it in the background; waits first for the save before. A step that is
    there already is left alone.

    Args:
      manager: from `manager`.
      state: all processes call this with the same step.
      loss: on held-out data, by which `keep_best` judges; None or not finite: not the best.
      progress: what the run carries on the host, as JSON; `read_progress` gives it back.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    rest = {"step": state.step, "optimizer_state": state.optimizer_state, "seed": state.seed}
    manager.save(
        step,
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            training=ocp.args.StandardSave(rest),
            manifest=ocp.args.JsonSave(_manifest(Path(manager.directory).parent, step, progress or {})),
        ),
        metrics={"loss": loss} if loss is not None and isfinite(loss) else None,
        force=True,
    )


def steps(run: Path) -> list[int]:
    """The steps of which there is a complete checkpoint, ascending."""
    return sorted(found.step for found in ocp.path.step.standard_name_format().find_all((run / FOLDER).absolute()))


def saved_at(run: Path, step: int) -> float:
    """When a checkpoint was saved, as `time.time()`."""
    return (run / FOLDER / str(step)).stat().st_mtime


def read_progress(run: Path, step: int) -> dict[str, Any]:
    """What `save` was given. Raises InputError if the checkpoint is damaged or another run's."""
    return _checked(run, step, steps(run)).get("progress", {})


def drop_after(run: Path, step: int) -> None:
    """Deletes the checkpoints of later steps, the latest first, so that a kill leaves a run that can be resumed."""
    for later in reversed(steps(run)):
        if later > step:
            shutil.rmtree(run / FOLDER / str(later))


def restore(run: Path, like: TrainState, step: int | None = None) -> TrainState:
    """The state at `step` (None: the latest), bit by bit.

    There is no silent fallback to an older checkpoint: storage that has lost a bit wants a person's attention, and
    the message says which folder to delete in order to go on from the one before.

    Args:
      run: the run's folder.
      like: shapes and shardings, on any mesh (`state.abstract`).
      step: which checkpoint.

    Raises:
      InputError: if there is no such checkpoint, if it is damaged (with the name of the array), or if it is of
        another model or optimizer.
    """
    rest = {"step": like.step, "optimizer_state": like.optimizer_state, "seed": like.seed}
    params, rest = _restore(run, step, {"params": like.params, "training": rest})
    return TrainState(params=params, **rest)


def restore_params(run: Path, like: Params, step: int | None = None) -> Params:
    """The parameters alone, as `restore` would give them; nothing else is read."""
    return _restore(run, step, {"params": like})[0]


class _Hashed(ocp.StandardCheckpointHandler):
    """Orbax's handler of trees, whose writing is complete when the chunks are hashed."""

    async def async_save(self, directory: Any, *arguments: Any, **settings: Any) -> list[ocp.future.Future]:
        futures = await super().async_save(directory, *arguments, **settings)
        folder = Path(getattr(directory, "path", directory))  # one that Orbax is making, or one that is there
        return [ocp.future.ChainedFuture(futures, lambda: _write_hashes(folder))]

    def finalize(self, directory: Any) -> None:
        super().finalize(_LiteralPath(directory))


class _LiteralPath(epath.gpath.PosixGPath):
    """A local folder whose own name is no pattern. Orbax looks for what the processes have written by a pattern of the
    whole path; in a folder with brackets in its name it would find nothing, and say nothing."""

    def glob(self, pattern: str) -> Iterator[Any]:
        return map(epath.Path, Path(self).glob(pattern))


def _write_hashes(folder: Path) -> None:
    process, limit = jax.process_index(), time.monotonic() + LATEST
    metadata = folder / "array_metadatas" / f"process_{process}"
    while not metadata.exists():  # on a busy machine, its writer may be later than those of the arrays
        if time.monotonic() > limit:
            raise FileNotFoundError(f"{metadata} was not written within {LATEST} s")
        time.sleep(0.01)
    store = _open(folder / f"ocdbt.process_{process}")
    chunks = _hashes(store, store.list().result())
    names = [f"array_metadatas/process_{process}"] + ["_METADATA"] * (process == 0)
    files = {name: _file_hash(folder / name) for name in names}
    hashes = json.dumps({"chunks": chunks, "files": files}, indent=1)
    (folder / f"checksums.{process}.json").write_text(hashes, encoding="ascii")


def _restore(run: Path, step: int | None, items: dict[str, Any]) -> list[Any]:
    there = steps(run)
    if not there:
        raise InputError(f"{run} has no checkpoint")
    if step is not None and step not in there:
        raise InputError(f"{run} has no checkpoint of step {step}; it has {there}")
    step = there[-1] if step is None else step
    folder = (run / FOLDER / str(step)).absolute()
    advice = _advice(folder, step, there)
    processes = _checked(run, step, there).get("processes")
    for item in items:
        damaged = _everywhere(_damaged(folder / item, processes))
        if damaged:
            raise InputError(f"the checkpoint of step {step} is damaged: {item}: {damaged}; {advice}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return [checkpointer.restore(folder / item, like) for item, like in items.items()]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"the checkpoint of step {step} in {run} is not of this experiment's model and optimizer, or its metadata "
            f"is damaged: {error}"
        ) from error


def _advice(folder: Path, step: int, there: list[int]) -> str:
    earlier = [other for other in there if other < step]
    return f"delete {folder} to resume from step {earlier[-1]}" if earlier else "there is no earlier one"


def identity(run: Path) -> str | None:
    """Of the run that a folder holds; None: it is older than such identities, or holds checkpoints alone."""
    path = run / "experiment.json"
    return json.loads(path.read_bytes()).get("run") if path.exists() else None


def _manifest(run: Path, step: int, progress: dict[str, Any]) -> dict[str, Any]:
    content = {
        "format": FORMAT,
        "run": identity(run),
        "step": step,
        "processes": jax.process_count(),
        "progress": progress,
    }
    return content | {"crc": _crc(content)}


def _crc(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _checked(run: Path, step: int, there: list[int]) -> dict[str, Any]:
    """The manifest of a checkpoint; {} in a run that is older than manifests. Raises InputError if it is damaged, has
    another format, or is of another run."""
    folder, of_run = (run / FOLDER / str(step)).absolute(), identity(run)
    path = folder / MANIFEST / "metadata"
    advice = _advice(folder, step, there)
    if not path.exists():
        if of_run is None:
            return {}
        raise InputError(f"the checkpoint of step {step} is damaged: {MANIFEST} is missing; {advice}")
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content.pop("crc") != _crc(content):
            raise ValueError("its checksum differs")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"the checkpoint of step {step} is damaged: {MANIFEST}: {error}; {advice}") from error
    if content["format"] != FORMAT:
        raise InputError(f"{folder} has format {content['format']}; this version reads 1 and {FORMAT}")
    if content["run"] != of_run or content["step"] != step:
        raise InputError(
            f"{folder} is the checkpoint of step {content['step']} of another run ({content['run']}, and not "
            f"{of_run}); {advice}"
        )
    return content


def _damaged(folder: Path, processes: int | None) -> str:
    """What is wrong with the stored arrays of an item; "" if nothing is. Each process looks at its share of them.
    `processes` have written it, if that is known."""
    try:
        if not folder.is_dir():
            return "it is missing"
        count = len(list(folder.glob("checksums.*.json")))
        if count != (processes or max(count, 1)):
            return f"{count} of {processes or 1} files checksums.*.json are there"
        chunks: dict[str, str] = {}
        wrong: list[str] = []
        for path in sorted(folder.glob("checksums.*.json")):
            hashes = json.loads(path.read_bytes())
            chunks |= hashes["chunks"]
            wrong += [f"file {name}" for name, value in hashes["files"].items() if _file_hash(folder / name) != value]
        store = _open(folder)
        if {key.decode() for key in store.list().result()} != set(chunks):
            return f"its list of arrays is not that of its checksums.*.json ({len(chunks)} chunks)"
        share = sorted(chunks)[jax.process_index() :: jax.process_count()]
        found = _hashes(store, [key.encode() for key in share])
        wrong += sorted({f"array {_array(key)}" for key in share if found[key] != chunks[key]})
        return ", ".join(wrong)
    except (ValueError, KeyError, OSError) as error:  # a file that is missing, or that the store itself finds damaged
        return str(error).splitlines()[0]


def _everywhere(found: str) -> str:
    """What this process or another has found, so that all of them stop together."""
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(bool(found))).any():
        return found or "found by another process"
    return found


def _open(folder: Path) -> tensorstore.KvStore:
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()


def _hashes(store: tensorstore.KvStore, keys: list[bytes]) -> dict[str, str]:
    """xxh3 of stored chunks, by their names: `array/index`, e.g. `decoder.norm.scale/0`."""

    def digest(key: bytes) -> str:
        try:
            return xxhash.xxh3_64_hexdigest(store.read(key).result().value)
        except ValueError as error:
            raise ValueError(f"array {_array(key.decode())} cannot be read: {error}") from error

    with ThreadPoolExecutor(THREADS) as pool:
        return {key.decode(): value for key, value in zip(keys, pool.map(digest, keys), strict=True)}


def _array(chunk: str) -> str:
    return chunk.rpartition("/")[0]


def _file_hash(path: Path) -> str:
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def _loss(metrics: dict[str, float]) -> float:
    return metrics["loss"]
