"""Foreign checkpoints: Hugging Face's, in and out, and GGUF, in.

A checkpoint is a resolved `config.Model`, its parameters, and a tokenizer.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from research.config import Model
from research.data.huggingface_backend import HuggingFace
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.interop import gguf, gguf_tokenizer, huggingface, mapping
from research.interop.huggingface import write
from research.interop.mapping import Tensor
from research.interop.names import Names
from research.models import Params
from research.runtime import files

log = logging.getLogger(__name__)
__all__ = ["ForeignCheckpoint", "load_checkpoint", "open_checkpoint", "write"]


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A foreign checkpoint of which only the headers are read."""

    model: Model  # resolved
    tokenizer: Tokenizer
    names: Names
    tensors: dict[str, Tensor]

    def params(
        self,
        shardings: Any = None,
        finish: Callable[[str, jax.Array], Mapping[str, jax.Array]] = lambda path, array: {path: array},
        dtype: str = "float32",
    ) -> Params:
        """Reads the parameters, each straight to where it belongs; see `mapping.load_params`."""
        return mapping.load_params(self.model, self.names, self.tensors, shardings, finish, dtype)


def open_checkpoint(source: str) -> ForeignCheckpoint:
    """Opens a GGUF file, a folder, or a name on the Hugging Face hub.

    Raises:
      InputError: if it is missing, damaged, or something that the stack cannot express; the message says what.
    """
    path = files.expanded(source)
    if path.is_file() and path.suffix == ".gguf":
        metadata, tensors = gguf.open_file(path)
        model, names = gguf.model(metadata, tensors)
        tokenizer = gguf_tokenizer.from_gguf(metadata)
    else:
        folder = huggingface.find(source)
        model, names, tensors = huggingface.read(folder)
        tokenizer = huggingface.read_tokenizer(folder)
    return ForeignCheckpoint(model, _fitted(tokenizer, model.vocabulary, source), names, tensors)


def _fitted(tokenizer: Tokenizer, rows: int, source: str) -> Tokenizer:
    """The tokenizer without the special tokens after the last row of the embedding: a padding token, often, for which
    nobody made a row. Raises InputError if anything else is there."""
    tokenizer = _ending(tokenizer, rows, source)
    beyond = {i: name for i, name in tokenizer.names.items() if i >= rows}
    needed = {tokenizer.bos, *tokenizer.stops, tokenizer.mask, *tokenizer.sentinels, *tokenizer.modes.values()}
    template = tokenizer.chat_template or ""
    if not needed & set(beyond) and not any(name in template for name in beyond.values()):
        coder = tokenizer.coder.without_tokens(beyond) if isinstance(tokenizer.coder, HuggingFace) else tokenizer.coder
        names = {i: name for i, name in tokenizer.names.items() if i < rows}
        kept = dataclasses.replace(tokenizer, coder=coder, names=names)
        if kept.size <= rows:
            if beyond:
                log.warning("%s: the embedding has no rows for the tokens %s", source, ", ".join(beyond.values()))
            return kept
    raise InputError(
        f"{source}: the tokenizer has {tokenizer.size} ids, but the embedding only {rows} rows: they do not belong "
        "together"
    )


def _ending(tokenizer: Tokenizer, rows: int, source: str) -> Tokenizer:
    """The tokenizer without ends of generation that no row of the embedding stands for, and no token has: the model
    never gives them. Raises InputError if there is no other."""
    ends = tuple(i for i in tokenizer.ends if i < rows or i in tokenizer.names)
    if ends == tokenizer.ends:
        return tokenizer
    said = f"{source}: eos_token_id {list(tokenizer.ends)}, but the embedding has only {rows} rows"
    if not ends:
        raise InputError(f"{said}: nothing would end a text")
    log.warning("%s", said)
    return dataclasses.replace(tokenizer, ends=ends)


def load_checkpoint(source: str, shardings: Any = None) -> tuple[Model, Params, Tokenizer]:
    """All that `open_checkpoint` names, on the first device or as `shardings` (a tree as of the parameters) say."""
    opened = open_checkpoint(source)
    return opened.model, opened.params(shardings), opened.tokenizer
