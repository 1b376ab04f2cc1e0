"""JSON that somebody else wrote: files of a tokenizer or a checkpoint."""

import json
from pathlib import Path
from typing import Any

from research.errors import InputError


def parse(text: str, where: object) -> Any:
    """Raises InputError, which names `where`, if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from error


def read_text(path: Path) -> str:
    """A text in UTF-8, with or without a byte order mark. Raises InputError if it is not."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError if the file holds anything else."""
    value = parse(read_text(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object but a {type(value).__name__}")
    return value


def find(folder: Path, name: str) -> Path | None:
    """A file of a folder, or None if there is none.

    A folder from somebody else must not make us read files outside it: a link may lead out only inside a Hugging Face
    cache (`models--…/snapshots/REVISION`), whose files are links into `models--…/blobs`.

    Raises:
      InputError: if the name is a link to somewhere else.
    """
    path = folder / name
    if not path.exists():
        return None
    if path.is_symlink():
        above = folder.resolve()
        root = above.parent.parent if above.parent.name == "snapshots" else above
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{path} is a link to {path.resolve()}, outside its folder; copy the file into the folder")
    return path


def read_beside(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of a folder; empty if there is no such file."""
    path = find(folder, name)
    return {} if path is None else read_object(path)
