"""A second, faster tier of checkpoints: each process keeps its own part of the state on its host's disk.

A run that is saved to a bucket every ten minutes loses ten minutes; to a local disk it can be saved every minute or
two. Such a save is of use where all processes start again on the same hosts and the same mesh: after an error, a
preemption that leaves the disk, or a process that was killed. Otherwise the run resumes from the bucket.

FOLDER/RUN/process-I/STEP/ has `state.bin`, the parts of arrays that the devices of process I hold, one after the other
and each once, and `manifest.json`, which says what they are, with a checksum of each. A save appears when it is whole.
"""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401 which makes numpy know bfloat16 by its name
import numpy as np
import xxhash

from research.data import cache
from research.runtime import files, processes
from research.training.state import TrainState

FORMAT = 1
KEPT = 2  # newest saves: a process may have been killed before its last one
Index = tuple[tuple[int, int], ...]  # begin and end along each axis


class LocalCheckpoints:
    """The saves of one run, of this process."""

    def __init__(self, folder: Path, run: str) -> None:
        """`run`: its identity."""
        self.folder = folder / run / f"process-{jax.process_index()}"
        self.writer: threading.Thread | None = None
        self.error: BaseException | None = None

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Copies this process' part to the host and writes it in the background; waits first for the save before.
        `progress`: what the run carries on the host. Raises OSError if that one could not be written."""
        self.wait()
        jax.tree.map(lambda leaf: [shard.data.copy_to_host_async() for shard in leaf.addressable_shards], state)
        parts = [
            (path, index, np.array(data)) for path, index, data in _parts(state)
        ]  # the next step reuses the memory
        about = {"step": int(state.step), "processes": jax.process_count(), "progress": progress}
        self.writer = threading.Thread(target=self._write, args=(parts, about), daemon=True)
        self.writer.start()

    def wait(self) -> None:
        """Until the last save is there. Raises OSError if it could not be written."""
        if self.writer is not None:
            self.writer.join()
        self.writer, error, self.error = None, self.error, None
        if error is not None:
            raise error

    def steps(self) -> list[int]:
        """Of which this process has a save that is whole, ascending."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*")) if self.folder.is_dir() else []

    def saved_at(self, step: int) -> float:
        """When, as `time.time()`."""
        return (self.folder / str(step)).stat().st_mtime

    def drop_after(self, step: int) -> None:
        """Deletes the saves of later steps."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.folder / str(later))

    def restore(self, like: TrainState, later_than: int) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state that every process has whole, and its progress; all of them call this together. None: there
        is none of a later step than this. What is damaged, or of another mesh, counts as absent."""
        steps = [step for step in self.steps() if step > later_than]
        while step := _newest_of_all(steps):
            read = _read(self.folder / str(step), like)
            if _all(read is not None):
                assert read is not None
                return read
            steps = [other for other in steps if other < step]
        return None

    def _write(self, parts: list[tuple[str, Index, np.ndarray]], about: dict[str, Any]) -> None:
        try:
            with cache.building(self.folder / str(about["step"])) as unfinished:
                listed: list[dict[str, Any]] = []
                with open(unfinished / "state.bin", "wb") as file:
                    for path, index, data in parts:
                        stored = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
                        place = {"path": path, "index": index, "dtype": data.dtype.name, "begin": file.tell()}
                        listed.append({**place, "checksum": xxhash.xxh3_64_hexdigest(stored.data)})
                        stored.tofile(file)
                manifest = json.dumps({"format": FORMAT, "parts": listed, **about})
                (unfinished / "manifest.json").write_text(manifest, encoding="ascii")
                files.sync_folder(unfinished)
            for old in self.steps()[:-KEPT]:
                shutil.rmtree(self.folder / str(old), ignore_errors=True)
        except BaseException as error:  # raised by the next `wait`
            self.error = error


def _parts(state: TrainState) -> list[tuple[str, Index, jax.Array]]:
    """What the devices of this process hold of each array, each part once."""
    found: dict[tuple[str, Index], jax.Array] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        for shard in leaf.addressable_shards:
            found.setdefault((jax.tree_util.keystr(path), _index(shard.index, leaf.shape)), shard.data)
    return [(*key, data) for key, data in found.items()]


def _index(index: tuple[slice, ...], shape: tuple[int, ...]) -> Index:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _read(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """The state and its progress; None: something of it is not there as it was written."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT or manifest["processes"] != jax.process_count():
            return None
        stored = np.memmap(folder / "state.bin", np.uint8, "r")
        parts = {}
        for one in manifest["parts"]:
            index: Index = tuple((begin, end) for begin, end in one["index"])
            shape, dtype = tuple(end - begin for begin, end in index), np.dtype(one["dtype"])
            data = stored[one["begin"] : one["begin"] + int(np.prod(shape)) * dtype.itemsize]
            if xxhash.xxh3_64_hexdigest(np.asarray(data).data) != one["checksum"]:
                return None
            parts[one["path"], index] = np.array(data).view(dtype).reshape(shape)
        leaves, tree = jax.tree_util.tree_flatten_with_path(like)
        arrays = [_placed(leaf, jax.tree_util.keystr(path), parts) for path, leaf in leaves]
        return jax.tree.unflatten(tree, arrays), manifest["progress"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _placed(leaf: Any, path: str, parts: dict[tuple[str, Index], np.ndarray]) -> jax.Array:
    """An array on the devices of this process. Raises LookupError if a part is not there, as on another mesh."""
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape)
    data = {device: parts[path, _index(index, leaf.shape)] for device, index in indices.items()}
    if any(one.dtype != leaf.dtype for one in data.values()):
        raise LookupError(path)
    arrays = [jax.device_put(one, device) for device, one in data.items()]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, arrays)


def _newest_of_all(steps: list[int]) -> int:
    """The newest step that every process has; 0: there is none."""
    if not processes.is_distributed():
        return max(steps, default=0)
    from jax.experimental import multihost_utils

    newest = np.zeros(KEPT + 1, np.int64)  # one more, where a process was killed before it has deleted the oldest
    newest[: len(steps[-KEPT - 1 :])] = steps[-KEPT - 1 :]
    everywhere = multihost_utils.process_allgather(newest)
    return max((int(step) for step in newest if step and (everywhere == step).any(axis=1).all()), default=0)


def _all(here: bool) -> bool:
    if not processes.is_distributed():
        return here
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(here)).all())
