"""GGUF files: what llama.cpp runs. Read only; every quantisation that the `gguf` package can undo.

The header is read here and not with that package's `GGUFReader`, which needs seconds for a vocabulary and does not end
on a header that lies about the length of an array.

Every key of a model that llama.cpp's loader reads for these architectures (`load_hparams` of `src/llama-model.cpp`,
`src/models/llama.cpp`); those of the tokenizer are in `gguf_tokenizer.py`. Any other key of the architecture, and a
value of another type, is refused by its name, so that nothing that a model needs is passed over.

| key `ARCHITECTURE.` | where it is missing | here |
| --- | --- | --- |
| `context_length`, `embedding_length`, `block_count`, `feed_forward_length` | an error | the same |
| `attention.head_count` | an error | the same; a list, one for each layer, is read if all are equal |
| `attention.head_count_kv` | `attention.head_count` | the same, with lists too |
| `attention.key_length`, `attention.value_length` | width / heads | the same; they must be equal |
| `attention.layer_norm_rms_epsilon` | an error | the same |
| `rope.dimension_count` | `attention.key_length` | the same; it must be equal to that |
| `rope.freq_base` | 10000 | the same |
| `rope.scaling.type` | linear | the same; none and linear are read, others refused |
| `rope.scaling.factor` | `rope.scale_linear`, then 1 | the same; 0 means 1, and none ignores it |
| `rope.scaling.attn_factor` | 1 | must be 1 |
| `rope.scaling.original_context_length`, `rope.scaling.finetuned`, `rope.scaling.yarn_*` | of yarn | without effect |
| (tensor) `rope_freqs.weight` | none | Llama 3.1's scaling, else refused; not together with a factor |
| `vocab_size` | the number of tokens | the rows of `token_embd.weight`, which must be there |
| `attention.causal`, `use_parallel_residual` | true, false | must be that |
| `attention.scale`, `attention.sliding_window`, `attention.clamp_kqv`, `attention.max_alibi_bias` | 0 | must be 0 |
| `attn_logit_softcapping`, `final_logit_softcapping` | 0 | must be 0 |
| `logit_scale`, `residual_scale`, `embedding_scale` | 0 | must be 0 |
| `expert_count`, `expert_used_count`, `nextn_predict_layers`, `pooling_type` | 0 | must be 0 |
| `tensor_data_layout` | reference | of old converters: without effect |

`general.architecture` must be there; `general.alignment` is 32 where missing; of `split.count` only 1 is read.
"""

import math
import mmap
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from research.config import MLP, Attention, Head, Model, Norm, Positions, RopeScaling, replace_fields, resolve
from research.errors import InputError, requires
from research.interop import mapping
from research.interop.mapping import Tensor
from research.interop.names import GGUF, Names
from research.models import rope

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PLAIN: dict[int, np.dtype] = {  # by GGML's number of the type
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    28: np.dtype(np.float64),
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
            if type(alignment) is not int or not 0 < alignment <= 1 << 16:
                raise _Broken(f"its general.alignment is {str(alignment)[:60]}")
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
    _check_keys(architecture, metadata)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InputError("the GGUF file has no matrix token_embd.weight")

    def size(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]
        if value is None:
            raise InputError(f"the GGUF file lacks {architecture}.{key}")
        if type(value) is not int or not 0 < value < 1 << 31:
            raise InputError(f"{architecture}.{key} is {str(value)[:60]}, not one positive number")
        return value

    def number(key: str, default: float | None = None) -> float:
        value = metadata.get(f"{architecture}.{key}", default)
        if value is None:
            raise InputError(f"the GGUF file lacks {architecture}.{key}")
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise InputError(f"{architecture}.{key} is {str(value)[:60]}, not one finite number of at least 0")
        return float(np.float32(value).astype(str))

    heads, width = size("attention.head_count"), size("embedding_length")
    head_width = size("attention.key_length", max(width // heads, 1))
    if size("attention.value_length", max(width // heads, 1)) != head_width:
        raise InputError(f"{architecture}.attention.value_length unlike attention.key_length is not supported")
    if size("rope.dimension_count", head_width) != head_width:
        raise InputError(f"{architecture}.rope.dimension_count: rotating only a part of each head is not supported")
    given = Model(
        vocabulary=embedding.shape[0],
        width=width,
        depth=size("block_count"),
        attention=Attention(
            heads=heads,
            kv_heads=size("attention.head_count_kv", heads),
            head_width=head_width,
            qkv_bias=ARCHITECTURES[architecture].attention.qkv_bias,
            qk_norm=ARCHITECTURES[architecture].attention.qk_norm,
        ),
        mlp=MLP(width=size("feed_forward_length")),
        positions=Positions(max_length=size("context_length"), theta=number("rope.freq_base", 10_000.0)),
        norm=Norm(epsilon=number("attention.layer_norm_rms_epsilon")),
        head=Head(tied="output.weight" not in tensors),
    )
    mapping.check_sizes(given, tensors)
    resolved = resolve(given, 0, 0)
    kind = metadata.get(f"{architecture}.rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise InputError(f"{architecture}.rope.scaling.type {kind!r} is not supported; none and linear are")
    factor = number("rope.scaling.factor", number("rope.scale_linear", 0.0)) if kind == "linear" else 1.0
    return _scaled(resolved, 1.0 if factor == 0 else factor, tensors), names(architecture)


_READ = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "tensor_data_layout"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scale_linear"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
}
_ONLY: dict[str, float | bool] = {  # key -> the one value that the stack can express
    "rope.scaling.attn_factor": 1.0,
    "attention.causal": True,
    "use_parallel_residual": False,
    **dict.fromkeys(("attention.scale", "attention.sliding_window", "attention.clamp_kqv"), 0),
    **dict.fromkeys(("attention.max_alibi_bias", "attn_logit_softcapping", "final_logit_softcapping"), 0),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale"), 0),
    **dict.fromkeys(("expert_count", "expert_used_count", "nextn_predict_layers", "pooling_type"), 0),
}


def _check_keys(architecture: str, metadata: dict[str, Any]) -> None:
    """Raises InputError if a key says something that the stack cannot express, or that is not known."""
    if metadata.get("split.count", 1) not in (0, 1):
        raise InputError(
            f"split.count is {metadata['split.count']}: this is one part of a model in several files; join them with "
            "llama-gguf-split --merge FIRST WHOLE.gguf"
        )
    if metadata.get(f"{architecture}.expert_count"):
        raise InputError(f"{architecture}.expert_count: mixtures of experts are not supported")
    for full, value in metadata.items():
        owner, _, key = full.partition(".")
        if owner != architecture or key in _READ or key.startswith("rope.scaling.yarn_"):
            continue
        if key not in _ONLY:
            raise InputError(f"the key {full} of the GGUF file is not known here, so the model cannot be read right")
        if value != _ONLY[key]:
            raise InputError(f"{full} = {str(value)[:60]} is not supported, only {_ONLY[key]}")


def names(architecture: str) -> Names:
    """The table for an architecture: llama's files keep the pairs that rotate together as neighbours."""
    turned = ("decoder/layers/attention/query", "decoder/layers/attention/key")
    return replace(GGUF, interleaved=turned if architecture == "llama" else ())


def _scaled(model: Model, factor: float, tensors: dict[str, Tensor]) -> Model:
    """With the scaling of rotary positions: linear in the metadata, Llama 3.1's as a tensor of divisors."""
    if "rope_freqs.weight" not in tensors:
        return model if factor == 1 else replace_fields(model, {"positions.scaling": RopeScaling("linear", factor)})
    if factor != 1:
        raise InputError("rope_freqs.weight together with rope.scaling.factor is not supported")
    divisors = tensors["rope_freqs.weight"].read()
    scaling = RopeScaling(factor=float(divisors.max(initial=1.0)))
    plain, slowed = (rope.frequencies(model.positions.rotary_width, model.positions.theta, s) for s in (None, scaling))
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
        least = 13, 24  # bytes of the shortest value and tensor
        if values * least[0] + tensors * least[1] > len(self.data):
            raise _Broken(f"it claims {values} values and {tensors} tensors, more than {len(self.data)} bytes can hold")
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
            if 8 * count > len(self.data) - self.offset:
                raise _Broken(f"it claims an array of {count} strings")
            return [self.string() for _ in range(count)]
        array = np.dtype(f"<{self.scalar(inner)}")
        return np.frombuffer(self.take(count * array.itemsize), array).tolist()

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _Broken(f"it has a value of the unknown type {kind}")
        return _SCALARS[kind]


def _tensor(path: Path, size: int, start: int, name: str, dimensions: list[int], kind: int, offset: int) -> Tensor:
    shape = tuple(reversed(dimensions))
    with requires("gguf", "a GGUF file"):
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import _type_traits as DEQUANTISERS
        from gguf.quants import dequantize
    try:
        quantisation = GGMLQuantizationType(kind)
    except ValueError:
        raise InputError(f"{path}: tensor {name!r} has the unknown type {kind}") from None
    if kind not in _PLAIN and quantisation not in DEQUANTISERS:
        raise InputError(f"{path}: tensor {name!r} is of type {quantisation.name}, which cannot be de-quantised")
    block, block_bytes = GGML_QUANT_SIZES[quantisation]
    if not shape or shape[-1] % block:
        raise _Broken(f"its tensor {name!r} of shape {list(shape)} does not consist of blocks of {block}")
    plain = _PLAIN.get(kind)
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
