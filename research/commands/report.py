"""The command `report RUN… [--out FILE]`: one page with all that is known about runs, to open from disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from research.commands import command_line
from research.errors import InputError


@dataclass(frozen=True)
class Options:
    """Writes one HTML page about run folders, complete or not: what was run, curves, samples, time and evaluations.
    Several runs are laid over each other."""

    out: Path | None = None  # the page; not given: report.html in the run folder, of several runs in the one above


def main(arguments: list[str]) -> None:
    first_option = next((n for n, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    folders = [Path(name) for name in arguments[:first_option]]
    options = command_line.parse("report RUN…", arguments[first_option:], Options())
    if not folders:
        raise InputError("report begins with run folders: report runs/quickstart")
    Console().print(str(write(folders, options.out)), highlight=False, soft_wrap=True)


def write(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page about some run folders and returns its path.

    Raises:
      InputError: if one is not a run folder.
    """
    from research.analysis import page, runs  # only now, so that a mistake on the command line is told at once

    found = runs.read(folders)
    out = out or (folders[0] if len(folders) == 1 else folders[0].resolve().parent) / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page.html(found))
    return out
