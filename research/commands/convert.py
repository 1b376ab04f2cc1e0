"""The command `convert SOURCE DEST`: between the formats of checkpoints.

A run becomes a folder that `transformers` loads, its adapters merged (or, on request, an adapter that `peft` loads); a
Hugging Face folder or name, or a GGUF file, becomes a run folder.
"""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from research.commands import command_line
from research.errors import InputError
from research.runs import convert
from research.runtime import processes


def main(arguments: list[str]) -> None:
    usage = "convert begins with a checkpoint and a new folder: convert runs/quickstart exported/quickstart"
    source, rest = command_line.first(arguments, usage)
    folder, rest = command_line.first(rest, usage) if source is not None else (None, rest)
    options = command_line.parse(f"convert {source or 'SOURCE'} {folder or 'DEST'}", rest, convert.Options())
    if source is None or folder is None:
        raise InputError(usage)
    processes.configure_jax()
    convert.convert(source, Path(folder), options)
    Console().print(Text(f"{folder} is written"))
