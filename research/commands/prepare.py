"""The command `prepare CONFIG --data.prepared FOLDER [--part I/N] [--workers N] [--FIELD VALUE …]`: tokenises the data
of an experiment once, on CPUs, for every later run and any number of hosts."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from research.commands import command_line
from research.config import Experiment, config_file
from research.data.shards import Part
from research.errors import InputError


@dataclass(frozen=True)
class _Preparing:
    """Tokenises what an experiment reads into a folder that `train` takes by the same `--data.prepared`. Several
    machines share the work by parts; whichever part ends last completes it. Run it again after adding files to a
    source: only those are tokenised."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    part: str = "0/1"  # I/N: of N machines the one with number I, from 0, as $SLURM_ARRAY_TASK_ID/N
    workers: int = 0  # files that are tokenised at the same time; 0: as many as this process may use cores


def main(arguments: list[str]) -> None:
    name, options = command_line.first(
        arguments, "prepare begins with a config file: prepare configs/llama_8b.py --data.prepared FOLDER"
    )
    start = _Preparing(config_file.read(Path(name)) if name else Experiment())
    chosen = command_line.parse(f"prepare {name or 'CONFIG'}", options, start)
    from research.runs import preparing  # only now, so that a mistake on the command line is told at once

    console = Console()
    preparing.prepare(
        chosen.experiment,
        _part(chosen.part),
        chosen.workers or len(os.sched_getaffinity(0)),
        lambda text: console.print(Text(text), soft_wrap=True),
    )


def _part(text: str) -> Part:
    named = re.fullmatch(r"(\d+)/(\d+)", text)
    if not named or int(named[1]) >= int(named[2]):
        raise InputError(f"--part {text}: should be I/N with I from 0 to N - 1, as in 0/8")
    return Part(int(named[1]), int(named[2]))
