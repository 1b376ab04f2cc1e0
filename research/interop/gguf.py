"""GGUF files: what llama.cpp runs. Read only; every quantisation that the `gguf` package can undo.

The header is read here and not with that package's `GGUFReader`, which needs seconds for a vocabulary and does not end
on a header that lies about the length of an array.
"""

import math
import mmap
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import _type_traits as DEQUANTISERS
from gguf.quants import dequantize

from research.config import MLP, Attention, Head, Model, Norm, Positions, RopeScaling, replace_fields, resolve
from research.errors import InputError
from research.interop.mapping import Tensor
from research.interop.names import GGUF, Names
from research.models import rope

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PLAIN: dict[GGMLQuantizationType, np.dtype] = {
    GGMLQuantizationType.F64: np.dtype(np.float64),
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
}
ARCHITECTURES = {
    "llama": Model(),
    "qwen2": Model(attention=Attention(qkv_bias=True)),
    "qwen3": Model(attention=Attention(qk_norm=True)),
}


def open_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata by key, and the tensors; one is de-quantised, as a whole, when it is read.

    Raises:
      InputError: if the file is not sound, or a tensor has a quantisation that cannot be undone.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            metadata, entries = reader.header()
            alignment = metadata.get("general.alignment", 32)
            start = -(-reader.offset // alignment) * alignment
            tensors = {name: _tensor(path, len(data), start, name, *entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a sound GGUF file: {error}") from error
    return metadata, tensors


def model(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Model, Names]:
    """The resolved model that the metadata describe, and how its tensors are called.

    Raises:
      InputError: if the architecture or one of its features is not supported, or if a needed value is missing.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"GGUF architecture {architecture!r} is not supported; these are: {known}")

    def value(key: str, default: Any = None) -> Any:
        found = metadata.get(f"{architecture}.{key}", default)
        if found is None:
            raise InputError(f"the GGUF file lacks {architecture}.{key}")
        return found

    heads, width = value("attention.head_count"), value("embedding_length")
    head_width = value("attention.key_length", width // heads)
    if value("rope.dimension_count", head_width) != head_width:
        raise InputError(f"{architecture}.rope.dimension_count: rotating only a part of each head is not supported")
    if value("expert_count", 0):
        raise InputError(f"{architecture}.expert_count: mixtures of experts are not supported")
    resolved = resolve(
        Model(
            vocabulary=tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else value("vocab_size"),
            width=width,
            depth=value("block_count"),
            attention=Attention(
                heads=heads,
                kv_heads=value("attention.head_count_kv", heads),
                head_width=head_width,
                qkv_bias=ARCHITECTURES[architecture].attention.qkv_bias,
                qk_norm=ARCHITECTURES[architecture].attention.qk_norm,
            ),
            mlp=MLP(width=value("feed_forward_length")),
            positions=Positions(max_length=value("context_length"), theta=float(value("rope.freq_base", 10_000.0))),
            norm=Norm(epsilon=float(np.float32(value("attention.layer_norm_rms_epsilon")).astype(str))),
            head=Head(tied="output.weight" not in tensors),
        ),
        0,
        0,
    )
    return _scaled(resolved, architecture, metadata, tensors), names(architecture)


def names(architecture: str) -> Names:
    """The table for an architecture: llama's files keep the pairs that rotate together as neighbours."""
    turned = ("decoder/layers/attention/query", "decoder/layers/attention/key")
    return replace(GGUF, interleaved=turned if architecture == "llama" else ())


def _scaled(model: Model, architecture: str, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    """With the scaling of rotary positions: linear in the metadata, Llama 3.1's as a tensor of divisors."""
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "linear":
        return replace_fields(
            model, {"positions.scaling": RopeScaling("linear", metadata[f"{architecture}.rope.scaling.factor"])}
        )
    if kind != "none":
        raise InputError(f"{architecture}.rope.scaling.type {kind!r} is not supported; none and linear are")
    if "rope_freqs.weight" not in tensors:
        return model
    divisors = tensors["rope_freqs.weight"].read()
    scaling = RopeScaling(factor=float(divisors.max()))
    plain, slowed = (rope.frequencies(model.attention.head_width, model.positions.theta, s) for s in (None, scaling))
    if divisors.shape != plain.shape or not np.allclose(plain / slowed, divisors, rtol=1e-3):
        raise InputError("rope_freqs.weight: its scaling of rotary positions is not that of Llama 3.1")
    return replace_fields(model, {"positions.scaling": scaling})


class _Broken(ValueError):
    """What is wrong with a file."""


class _Reader:
    """Reads values one after the other, never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.offset = 0

    def header(self) -> tuple[dict[str, Any], dict[str, tuple[list[int], int, int]]]:
        """Metadata, and for each tensor its dimensions, type and offset."""
        if self.take(4) != MAGIC:
            raise _Broken("it does not begin with GGUF")
        version, tensors, values = self.scalars("IQQ")
        if version not in VERSIONS:
            raise _Broken(f"it is of version {version}; {VERSIONS} are supported")
        metadata: dict[str, Any] = {}
        for _ in range(values):
            key = self.string()
            if key in metadata:
                raise _Broken(f"it has {key!r} twice")
            metadata[key] = self.value(*self.scalars("I"))
        entries: dict[str, tuple[list[int], int, int]] = {}
        for _ in range(tensors):
            name = self.string()
            (dimensions,) = self.scalars("I")
            if name in entries or dimensions > 4:
                raise _Broken(f"its tensor {name!r} is there twice, or of {dimensions} dimensions")
            shape = list(self.scalars("Q" * dimensions))
            entries[name] = shape, *self.scalars("IQ")
        return metadata, entries

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.offset:
            raise _Broken(f"it ends at byte {len(self.data)}, within a value of {count} bytes at {self.offset}")
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def scalars(self, kinds: str) -> tuple[Any, ...]:
        kinds = "<" + kinds
        return struct.unpack(kinds, self.take(struct.calcsize(kinds)))

    def string(self) -> str:
        return self.take(int.from_bytes(self.take(8), "little")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalars(self.scalar(kind))[0]
        inner, count = self.scalars("IQ")
        if inner == _ARRAY:
            raise _Broken("it has an array of arrays")
        if inner == _STRING:
            return [self.string() for _ in range(count)]
        array = np.dtype(f"<{self.scalar(inner)}")
        return np.frombuffer(self.take(count * array.itemsize), array).tolist()

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _Broken(f"it has a value of the unknown type {kind}")
        return _SCALARS[kind]


def _tensor(path: Path, size: int, start: int, name: str, dimensions: list[int], kind: int, offset: int) -> Tensor:
    shape = tuple(reversed(dimensions))
    try:
        quantisation = GGMLQuantizationType(kind)
    except ValueError:
        raise InputError(f"{path}: tensor {name!r} has the unknown type {kind}") from None
    if quantisation not in _PLAIN and quantisation not in DEQUANTISERS:
        raise InputError(f"{path}: tensor {name!r} is of type {quantisation.name}, which cannot be de-quantised")
    block, block_bytes = GGML_QUANT_SIZES[quantisation]
    if not shape or shape[-1] % block:
        raise _Broken(f"its tensor {name!r} of shape {list(shape)} does not consist of blocks of {block}")
    plain = _PLAIN.get(quantisation)
    stored = (*shape[:-1], shape[-1] // block * block_bytes)
    begin = start + offset
    if begin + math.prod(stored) > size:
        raise _Broken(f"its tensor {name!r} reaches byte {begin + math.prod(stored)}, but it ends at {size}")

    def read() -> np.ndarray:
        if not math.prod(stored):
            return np.empty(shape, np.float32)
        raw = np.memmap(path, np.uint8, "r", begin, stored)
        return raw.view(plain) if plain is not None else dequantize(np.asarray(raw), quantisation)

    return Tensor(shape, np.dtype(np.float32) if plain is None else plain, read)
