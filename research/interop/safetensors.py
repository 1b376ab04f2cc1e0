"""safetensors files, read and written tensor by tensor.

A file is eight bytes with the length of a header, the header (JSON: name -> dtype, shape, offsets), and the tensors one
after the other. The header is not trusted: everything it says is checked against the file before a tensor is read.
The library of the same name cannot give bfloat16 to NumPy, nor write a file without holding all of it.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from research.data import json_files
from research.errors import InputError
from research.interop.mapping import Shape, Tensor

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
MAX_HEADER = 100_000_000  # bytes, as in the reference implementation
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def open_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; each is mapped into memory only while it is read.

    Raises:
      InputError: if the file is not what its header says.
    """
    try:
        with path.open("rb") as file:
            header, start = _header(file)
        return _tensors(path, header, start, path.stat().st_size - start)
    except (OSError, _Broken) as error:
        raise InputError(f"{path} is not a sound safetensors file: {error}") from error


def open_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of the files that `files` names. Raises InputError if one is missing or not sound."""
    single, *parts = files(folder)
    if not parts:
        return open_file(folder / single)
    where, index = _weight_map(folder), folder / INDEX
    missing = [file for file in parts if Path(file).name != file or not os.path.isfile(folder / file)]
    if missing:
        raise InputError(f"{index} names files that are not beside it: {', '.join(missing)}")
    opened = {file: open_file(folder / file) for file in parts}
    absent = [name for name, file in where.items() if name not in opened[file]]
    if absent:
        raise InputError(f"{index} promises tensors that its files lack: {', '.join(absent[:8])}")
    return {name: opened[file][name] for name, file in where.items()}


def files(folder: Path) -> list[str]:
    """What `transformers` reads of a folder: `model.safetensors` if it is there, else an index and the files that this
    names. Raises InputError if the index is damaged."""
    if (folder / SINGLE).exists() or not (folder / INDEX).exists():
        return [SINGLE]
    return [INDEX, *sorted(set(_weight_map(folder).values()))]


def _weight_map(folder: Path) -> dict[str, str]:
    where = json_files.read_object(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise InputError(f"{folder / INDEX} is not an index of safetensors files: it has no weight_map of file names")
    return where


def write_folder(
    folder: Path, shapes: Mapping[str, Shape], dtype: np.dtype, tensors: Iterable[tuple[str, np.ndarray]], limit: int
) -> None:
    """Writes `tensors`, in the order of `shapes`, as one file or, above `limit` bytes, several with an index."""
    groups: list[dict[str, Shape]] = [{}]
    size = 0
    for name, shape in shapes.items():
        bytes_of = math.prod(shape) * dtype.itemsize
        if groups[-1] and size + bytes_of > limit:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += bytes_of
    count = len(groups)
    files = [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    remaining = iter(tensors)
    for file, group in zip(files, groups, strict=True):
        write_file(folder / file, group, dtype, (next(remaining) for _ in group))
    if count > 1:
        where = {name: file for file, group in zip(files, groups, strict=True) for name in group}
        total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1)
        (folder / INDEX).write_text(text, encoding="utf-8")


def write_file(
    path: Path, shapes: Mapping[str, Shape], dtype: np.dtype, tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes one file; `tensors` come in the order of `shapes`, of any dtype."""
    kind = next(name for name, known in DTYPES.items() if known == dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for (name, array), (expected, shape) in zip(tensors, shapes.items(), strict=True):
            assert name == expected and array.shape == shape, (name, array.shape, expected, shape)
            np.ascontiguousarray(array, dtype).tofile(file)


class _Broken(ValueError):
    """What is wrong with a file."""


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header and where the tensors begin."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise _Broken(f"it has only {len(prefix)} bytes")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise _Broken(f"it claims a header of {length} bytes")
    raw = file.read(length)
    if len(raw) < length:
        raise _Broken(f"it ends within its header ({len(raw)} of {length} bytes)")
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _Broken("its header is not a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _Broken("its header has a name twice")
    return dict(pairs)


def _tensors(path: Path, header: dict[str, Any], start: int, available: int) -> dict[str, Tensor]:
    spans, out = [], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape, begin, end = _entry(name, entry)
        if end - begin != math.prod(shape) * DTYPES[kind].itemsize:
            raise _Broken(f"{name!r} has {end - begin} bytes, which is not {kind} of shape {list(shape)}")
        spans.append((begin, end, name))
        out[name] = _tensor(path, DTYPES[kind], shape, start + begin)
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise _Broken(f"{name!r} begins at byte {begin}, but the tensors before it end at {reached}")
        reached = end
    if reached != available:
        raise _Broken(f"its tensors have {reached} bytes, but {available} are there")
    return out


def _entry(name: str, entry: Any) -> tuple[str, Shape, int, int]:
    def count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 62

    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [begin, end]}:
            if kind not in DTYPES:
                raise _Broken(f"{name!r} is of dtype {kind}; supported are {', '.join(DTYPES)}")
            if all(map(count, (*shape, begin, end))) and begin <= end:
                return kind, tuple(shape), begin, end
    raise _Broken(f"the header's entry of {name!r} is malformed: {json.dumps(entry)[:200]}")


def _tensor(path: Path, dtype: np.dtype, shape: Shape, offset: int) -> Tensor:
    def read() -> np.ndarray:
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape)

    return Tensor(shape, dtype, read)
