"""The command `evaluate CHECKPOINT… [--tasks …] [--shots …] [--limit …]`: zero-shot tasks, with honest statistics."""

import sys

from rich.console import Console

from research.commands import command_line
from research.errors import InputError
from research.runs import evaluate
from research.runtime import processes


def main(arguments: list[str]) -> None:
    names, rest = command_line.leading(arguments)
    options = command_line.parse("evaluate CHECKPOINT…", rest, evaluate.Options())
    if not names:
        raise InputError("evaluate begins with checkpoints: evaluate runs/quickstart --tasks lambada --data FOLDER")
    if options.watch and len(names) > 1:
        raise InputError(f"--watch follows one run, not {len(names)}")
    processes.configure_jax()
    processes.initialize()
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.quiet = not processes.is_main_process()
    evaluate.run(names, options, console)
