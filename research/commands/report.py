"""The command `report RUN… [--out FILE]`: one page with all that is known about runs, to open from disk."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from research.commands import command_line
from research.errors import InputError


@dataclass(frozen=True)
class Options:
    """Writes one HTML page about run folders, complete or not: what was run, curves, samples, time and evaluations.
    Several runs are laid over each other."""

    out: Path | None = None  # the page; not given: report.html in the run folder, of several runs in the one above


def main(arguments: list[str]) -> None:
    folders, rest = command_line.leading(arguments)
    options = command_line.parse("report RUN…", rest, Options())
    if not folders:
        raise InputError("report begins with run folders: report runs/quickstart")
    from research.analysis import page  # only now, so that a mistake on the command line is told at once

    path = page.write([Path(name) for name in folders], options.out)
    Console().print(Text(str(path)), soft_wrap=True)
