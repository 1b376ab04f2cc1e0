"""Checkpoints in the format of Hugging Face: a folder with `config.json`, safetensors and a tokenizer.

Neither torch nor transformers is needed. What is written loads there with `from_pretrained`.
"""

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from research.config import Model
from research.data import cache, hub, tokenizers
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.interop import config_json, mapping, safetensors, tokenizer_json
from research.interop.mapping import Tensor
from research.interop.names import Names
from research.models import Params

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FILES = [
    *("config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "*.model", "chat_template.jinja"),
]
SHARD = 5_000_000_000  # bytes of a file, above which there are several
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16")}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find(source: str) -> Path:
    """The folder of a checkpoint: a folder, one in a Hugging Face cache (`models--…`), or a name on the hub, whose
    files are taken from the cache or downloaded into it.

    Raises:
      InputError: if there is no such thing.
    """
    folder = Path(source).expanduser()
    if (folder / "snapshots").is_dir():
        revision = folder / "refs" / "main"
        if not revision.exists():
            raise InputError(f"{folder} is a Hugging Face cache without refs/main; name one of its snapshots instead")
        folder = folder / "snapshots" / revision.read_text().strip()
    if folder.is_dir():
        return folder
    if folder.exists() or source.startswith(("/", ".", "~")) or not HUB_NAME.fullmatch(source):
        raise InputError(f"{source!r} is no folder with a checkpoint, and no name on the Hugging Face hub either")
    return hub.folder(source, FILES, needed=("config.json", "*.safetensors"))


def read(folder: Path) -> tuple[Model, Names, dict[str, Tensor]]:
    """The resolved model of a folder, how its tensors are called, and the tensors, not yet read.

    Raises:
      InputError: if the folder lacks a part, a file is not sound, or the model cannot be expressed.
    """
    path = folder / "config.json"
    if not path.exists():
        raise InputError(f"{folder} has no config.json: it is not a Hugging Face checkpoint")
    try:
        config = json.loads(path.read_text())
        config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a JSON object: {error}") from error
    if not (folder / safetensors.SINGLE).exists() and not (folder / safetensors.INDEX).exists():
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"{folder} has its tensors only as pickles ({', '.join(pickles[:3])}), which can run any program when "
                "they are read. If you trust their author, write them as safetensors, where torch is installed: "
                f"python -c \"import transformers as t; t.AutoModelForPreTraining.from_pretrained('{folder}')"
                f".save_pretrained('{folder}-safetensors')\", and copy the tokenizer's files beside them"
            )
        raise InputError(f"{folder} has neither {safetensors.SINGLE} nor {safetensors.INDEX}")
    tensors = safetensors.open_folder(folder)
    try:
        model, names = config_json.read(config, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return model, names, tensors


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with a bos only if it puts one before every text."""
    return tokenizer_json.without_unused_bos(tokenizers.load(str(folder)))


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
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = mapping.export(model, names, params)
        safetensors.write_folder(partial, mapping.shapes(model, names), DTYPES[dtype], tensors, limit)
        if tokenizer is not None:
            tokenizer_json.write(partial, tokenizer, ends=model.norm.embedding or model.encoder_depth > 0)
