"""Checkpoints in the format of Hugging Face: a folder with `config.json`, safetensors and a tokenizer.

Neither torch nor transformers is needed. What is written loads there with `from_pretrained`.
"""

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from research.config import Model
from research.data import cache, hub, json_files, tokenizers
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.interop import config_json, mapping, peft_reading, safetensors, tokenizer_json
from research.interop.mapping import Tensor
from research.interop.names import Names
from research.models import Params
from research.runtime import files

log = logging.getLogger(__name__)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FILES = [
    *("config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.*", "merges.txt", "*.model"),
]
SHARD = 5_000_000_000  # bytes of a file, above which there are several
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16")}
REVISION = re.compile(r"\w[\w./-]*")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find(source: str) -> Path:
    """The folder of a checkpoint: a folder, one in a Hugging Face cache (`models--…`), or a name on the hub, whose
    files are taken from the cache or downloaded into it. NAME@REVISION is another than the main branch of a name or a
    cache, or the folder NAME/REVISION.

    Raises:
      InputError: if there is no such thing.
    """
    folder = files.expanded(source)
    revision: str | None = None
    if "@" in source and not folder.exists():
        source, _, revision = source.rpartition("@")
        folder = files.expanded(source)
        if not REVISION.fullmatch(revision) or ".." in revision:
            raise InputError(f"{revision!r} is no revision of {source}: a branch, a tag or a commit")
    if (folder / "snapshots").is_dir():
        ref = folder / "refs" / (revision or "main")
        if not ref.exists():
            raise InputError(
                f"{folder} is a Hugging Face cache without refs/{ref.name}; name one of its snapshots instead"
            )
        name = json_files.read_text(ref).strip()
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"{ref} does not name a snapshot beside it, but {name[:100]!r}")
        folder, revision = folder / "snapshots" / name, None
    if folder.is_dir() and revision is not None:
        if not (folder / revision).is_dir():
            raise InputError(f"{folder} has no folder {revision}, which {source}@{revision} would be")
        folder = folder / revision
    if folder.is_dir():
        return folder
    if folder.exists() or source.startswith(("/", ".", "~")) or not HUB_NAME.fullmatch(source):
        raise InputError(f"{source!r} is no folder with a checkpoint, and no name on the Hugging Face hub either")
    return hub.folder(source, FILES, ("config.json", "*.safetensors"), revision)


def read(folder: Path) -> tuple[Model, Names, dict[str, Tensor]]:
    """The resolved model of a folder, how its tensors are called, and the tensors, not yet read.

    Raises:
      InputError: if the folder lacks a part, a file is not sound, or the model cannot be expressed.
    """
    base = base_of(folder)
    if base is not None:
        model, names, tensors = read(base)
        return model, names, peft_reading.merged(folder, model, names, tensors)
    path = json_files.find(folder, "config.json")
    if path is None:
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f"; name the GGUF file itself: {folder / ggufs[0]}" if ggufs else ""
        raise InputError(f"{folder} has no config.json: it is not a Hugging Face checkpoint{hint}")
    config = json_files.read_object(path)
    tensors = _tensors(folder)
    try:
        model, names = config_json.read(config, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return model, names, tensors


def base_of(folder: Path) -> Path | None:
    """The folder of the model that an adapter is of; None if the folder holds a model.

    Raises:
      InputError: if it holds both, of which transformers would make one, or if the model is not to be had.
    """
    if not (folder / "adapter_config.json").exists():
        return None
    adapter = json_files.read_beside(folder, "adapter_config.json")
    kind, base = adapter.get("peft_type", "PEFT"), adapter.get("base_model_name_or_path")
    if (folder / "config.json").exists():
        raise InputError(
            f"{folder} holds a model and beside it an adapter ({kind}, adapter_config.json, of {base!r}), which "
            "transformers would apply when it loads the folder. Write the merged model with peft (merge_and_unload, "
            "then save_pretrained), or move adapter_config.json elsewhere to read the model alone"
        )
    only = f"{folder} holds only an adapter ({kind}) of the model {base!r}"
    if not isinstance(base, str) or not base:
        raise InputError(f"{only}, which names no model")
    revision = adapter.get("revision")
    try:
        found = find(f"{base}@{revision}" if isinstance(revision, str) and revision else base)
    except InputError as error:
        raise InputError(f"{only}, which cannot be read: {error}") from error
    if (found / "adapter_config.json").exists():
        raise InputError(f"{only}, which is an adapter too")
    return found


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Of the weights that transformers takes: model.safetensors, else those of the index."""
    single, index = safetensors.SINGLE, safetensors.INDEX
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    if not (folder / single).exists() and not (folder / index).exists():
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if found:
            raise InputError(
                f"{folder} has {', '.join(found[:3])}, but neither {single} nor {index}, so it is not said which of "
                f"them is the model: give the one that is the name {single}"
            )
        if pickles:
            raise InputError(
                f"{folder} has its tensors only as pickles ({', '.join(pickles[:3])}), which can run any program when "
                "they are read. If you trust their author, write them as safetensors, where torch is installed: "
                f"python -c \"import transformers as t; t.AutoModelForPreTraining.from_pretrained('{folder}')"
                f".save_pretrained('{folder}-safetensors')\", and copy the tokenizer's files beside them"
            )
        raise InputError(f"{folder} has neither {single} nor {index}")
    tensors, taken = safetensors.open_folder(folder), safetensors.files(folder)
    others = [name for name in found if name not in taken] + sorted(file.name for file in folder.glob("*.gguf"))
    others += [index] if index not in taken and (folder / index).exists() else []
    if others:
        log.warning("%s: of its weights %s are read, as transformers does; not %s", folder, taken[0], ", ".join(others))
    return tensors


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with a bos only if it puts one before every text, and with what ends generation.

    Raises:
      InputError: if there is none, or if an end of generation is not an id.
    """
    base = base_of(folder)
    if base is not None and not any(folder.glob("tokenizer*")):
        return read_tokenizer(base)
    tokenizer = tokenizer_json.without_unused_bos(tokenizers.load(str(folder)))
    ends: tuple[int, ...] = ()
    for name in ("generation_config.json", "config.json"):  # the first that there is counts, as in transformers
        config = json_files.read_beside(folder, name)
        if config.get("eos_token_id") is not None:
            ends = _ids(config["eos_token_id"], folder / name)
        if config:
            break
    return tokenizer if not ends or ends == (tokenizer.eos,) else dataclasses.replace(tokenizer, ends=ends)


def _ids(value: Any, path: Path) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(one) is int and 0 <= one < 1 << 31 for one in ids):
        raise InputError(f"{path}: eos_token_id is {value!r}, not an id or a list of ids")
    return tuple(dict.fromkeys(ids))


def write(
    folder: Path, model: Model, params: Params, tokenizer: Tokenizer | None, dtype: str = "float32", limit: int = SHARD
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
      folder: must not exist.
      model: resolved.
      params: of any float type.
      tokenizer: None for a checkpoint without one.
      dtype: "float32", "bfloat16" or "float16".
      limit: bytes of a file, above which there are several.

    Raises:
      InputError: if the folder exists, or no family of `transformers` has such a model.
    """
    config, names = config_json.write(model)
    config["dtype"] = dtype
    if tokenizer is not None:
        ids = tokenizer_json.special_ids(tokenizer)
        config |= {key: number for key, number in ids.items() if config.get(key) is None}
    if model.encoder_depth:  # the decoder's first token, as in training
        config["decoder_start_token_id"] = (tokenizer.bos if tokenizer is not None else None) or 0
        config["pad_token_id"] = config["pad_token_id"] or 0
    if folder.exists():
        raise InputError(f"{folder} exists; choose another name or remove it")
    with cache.building(folder) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = mapping.export(model, names, params)
        safetensors.write_folder(partial, mapping.shapes(model, names), DTYPES[dtype], tensors, limit)
        if tokenizer is not None:
            tokenizer_json.write(partial, tokenizer, ends=model.norm.embedding or model.encoder_depth > 0)
