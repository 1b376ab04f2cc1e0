"""The command `plan CONFIG --topology v5p:8x8x8 [--slices N] [--alternatives N] [--write FILE] [--FIELD VALUE …]`:
whether a run fits accelerators that need not be there, how fast it would be, what bounds it, and what would be faster.
With `--for evaluate`: whether its model fits them to be evaluated, and split how.
"""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.text import Text

from research import config
from research.commands import command_line
from research.config import Experiment, Mesh, config_file, validation
from research.errors import InputError
from research.planning import candidates, chips, compiling, inference, plan_table, planned_config
from research.planning.chips import GIB, Topology
from research.planning.plan_table import Tried


@dataclass(frozen=True)
class _Planning:
    """Compiles the training step for a topology, and predicts its memory and its speed; or the programs that evaluate
    and sample its model, and predicts their memory. Exits with 1 if it does not fit."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    topology: str = ""  # v4:2x2x4, v5p:8x8x8, v5e:16x16, v6e:16x16, h100:8, h200:1: the chips of one slice or node
    slices: int = 1  # slices of a TPU, or nodes of GPUs, joined by the data centre's network
    alternatives: int = 3  # how many other meshes, microbatches and ways of recomputation are compiled too
    # evaluate: with the mesh that --mesh.tensor and others give, not the config's; none: the fewest parts that fit
    purpose: Annotated[Literal["train", "evaluate"], tyro.conf.arg(name="for")] = "train"
    dtype: inference.Dtype = "float32"  # of the parameters that are evaluated, as for the command evaluate
    write: Path | None = None  # a new config file beside CONFIG, which is CONFIG as it was fastest


def main(arguments: list[str]) -> None:
    name, options = command_line.first(
        arguments, "plan begins with a config file: plan configs/llama_8b.py --topology v5p:4x4x4"
    )
    start = _Planning(config_file.read(Path(name)) if name else Experiment())
    if re.search(r"--for[ =]evaluate", " ".join(options)):  # whose mesh is not that of training
        start = replace(start, experiment=replace(start.experiment, mesh=Mesh()))
    chosen = command_line.parse(f"plan {name or 'CONFIG'}", options, start)
    if not chosen.topology:
        raise InputError("plan needs --topology, as in --topology v5p:4x4x4 or --topology h100:8")
    topology, console = chips.topology(chosen.topology, chosen.slices), Console()
    if chosen.purpose == "evaluate":
        with console.status(Text(f"compiling for {topology} …")):
            sys.exit(inference.plan(_resolved(chosen.experiment), topology, chosen.dtype, console))
    if chosen.write is not None:
        planned_config.check(Path(name or ""), chosen.write)
    best, code = plan(chosen.experiment, topology, chosen.alternatives, console)
    if chosen.write is not None and best is not None:
        planned_config.write(
            Path(name or ""), chosen.write, config_file.read(Path(name or "")), chosen.experiment, best
        )
        console.print(Text(f"written: {chosen.write}"))
    sys.exit(code)


def plan(experiment: Experiment, topology: Topology, count: int, console: Console) -> tuple[Tried | None, int]:
    """Prints a plan with `count` alternatives. Returns the fastest that fits, if any does, and 0 if the experiment fits
    as it is configured, else 1.

    Raises:
      InputError: if the experiment cannot run, or not on so many chips.
    """
    experiment = _resolved(experiment)
    tried = [Tried(experiment, topology, _compiled(experiment, topology, console))]
    for variant in candidates.alternatives(experiment, topology, tried[0].compiled, count):
        tried.append(Tried(variant, topology, _compiled(variant, topology, console)))
    chosen = plan_table.best(tried)
    plan_table.show(console, tried, chosen)
    if tried[0].fits:
        return chosen, 0
    need, there = tried[0].compiled.total / GIB, topology.chip.memory / GIB
    would = f"this would: {chosen.options}" if chosen else "nor does anything that was tried; more chips might"
    console.print(f"does not fit: {need:,.1f} GiB are needed on a chip that has {there:,.1f}; {would}", highlight=False)
    return chosen, 1


def _resolved(experiment: Experiment) -> Experiment:
    """With everything that `train` would know before it makes any array, except what follows from the data alone."""
    if experiment.initialize_from is not None:
        from research.runs import initial

        source = initial.describe(experiment.initialize_from)
        experiment = replace(experiment, model=source.adapted(experiment.model))
    validation.validate(experiment)
    if not experiment.model.vocabulary:
        raise InputError(
            "model.vocabulary: is 0, which stands for the tokenizer's size, and a plan opens no data; "
            "give --model.vocabulary N, or plan the experiment.json of a run"
        )
    longest = max(experiment.data.length, experiment.data.source_length or 0)
    return replace(experiment, model=config.resolve(experiment.model, experiment.model.vocabulary, longest))


def _compiled(experiment: Experiment, topology: Topology, console: Console) -> compiling.Compiled:
    with console.status(Text(f"compiling for {topology} …")):
        return compiling.compile(experiment, topology)
