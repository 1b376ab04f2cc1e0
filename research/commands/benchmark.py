"""The command `benchmark WHAT …`: speed and memory as measured now, on this machine, beside a peer in the same run.

benchmark train CASE|CONFIG [--against hf|CASE|CONFIG]
benchmark generate CHECKPOINT [--batch ROWS --tokens N] [--against hf]
benchmark score CHECKPOINT --data FOLDER [--task TASK --items N] [--against hf]
benchmark data CASE|CONFIG
benchmark save CASE|CONFIG
benchmark start CASE|CONFIG
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from research.benchmarks import checkpointing, data_loading, generation, pairs, scoring, tables, training
from research.benchmarks.cases import CASES
from research.commands import command_line
from research.config import Experiment, config_file
from research.errors import InputError

Rows = list[tuple[str, str]]
SAVED_EVERY = 300.0  # seconds, for which the cost of saving is told


@dataclass(frozen=True)
class Turns:
    """How much is measured."""

    rounds: int = 5  # turns of each side
    count: int = 10  # units of work in a turn: steps, batches
    out: Path | None = None  # JSON with every number of every turn


@dataclass(frozen=True)
class Training:
    """Training steps as `train` takes them."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    turns: Annotated[Turns, tyro.conf.arg(name="")] = Turns()
    against: str | None = None  # hf: the same model in transformers, on torch; or a case or config of ours


@dataclass(frozen=True)
class Generation:
    """Greedy continuations."""

    turns: Annotated[Turns, tyro.conf.arg(name="")] = Turns(count=1)
    batch: int = 1  # prompts at once
    tokens: int = 128  # new ones
    against: Literal["hf"] | None = None  # transformers' generate, on torch


@dataclass(frozen=True)
class Scoring:
    """Log-likelihoods of the options of a multiple-choice task."""

    turns: Annotated[Turns, tyro.conf.arg(name="")] = Turns(count=1)
    data: tuple[Path, ...] = ()  # folders with the files of tasks
    task: str = "arc_easy"
    items: int = 64  # questions in a unit of work
    against: Literal["hf"] | None = None  # lm-evaluation-harness with its hf backend, on torch


def main(arguments: list[str]) -> None:
    known = {"train": train, "generate": generate, "score": score, "data": prepare, "save": save, "start": start}
    what, rest = command_line.first(arguments, f"benchmark begins with what to measure: {', '.join(known)}")
    if what not in known:
        print(__doc__)
        if what is not None:
            raise InputError(f"{what!r} cannot be measured; {', '.join(known)} can")
        return
    known[what](rest, Console())


def train(arguments: Sequence[str], console: Console) -> None:
    """Tokens per second, beside a peer's."""
    options = _training("train", arguments)
    turns, experiment = options.turns, options.experiment
    with ExitStack() as stack:
        sides = [stack.enter_context(pairs.side("ours", training.ours, experiment))]
        if options.against == "hf":
            sides.append(
                stack.enter_context(pairs.side("hf", training.theirs, experiment, experiment.step.compute_dtype))
            )
        elif options.against:
            sides.append(stack.enter_context(pairs.side(options.against, training.ours, _experiment(options.against))))
        pairs.in_turn(sides, turns.rounds, turns.count)
    rows: list[tuple[str, list[str]]] = [
        ("tokens/s", [f"{pairs.median(side, 'rate'):,.0f}" for side in sides]),
        ("tokens/s without padding", [f"{pairs.median(side, 'unpadded_rate'):,.0f}" for side in sides]),
        ("step, median", [f"{1e3 * pairs.median(side, 'step'):,.1f} ms" for side in sides]),
        ("step, 10th to 90th percentile", [f"{1e3 * pairs.median(side, 'spread'):,.1f} ms" for side in sides]),
        ("model FLOP/s", [f"{tables.flops(side) / 1e12:,.3g} T" for side in sides]),
        ("MFU", [f"{tables.flops(side) / sides[0].facts['peak']:.1%}" for side in sides]),
        ("peak memory", [f"{max(turn['memory'] for turn in side.turns) / 2**30:,.2f} GiB" for side in sides]),
        ("compiling", [f"{side.facts['compiling']:,.1f} s" for side in sides]),
        ("first step after", [f"{side.facts['first_step']:,.1f} s" for side in sides]),
        ("waiting for data", [f"{pairs.median(s, 'waiting'):.2%}" if "waiting" in s.turns[0] else "" for s in sides]),
        ("loss of the first step", [f"{side.facts['first_loss']:.4f}" for side in sides]),
    ]
    tables.show(console, sides, rows, turns.out)


def generate(arguments: Sequence[str], console: Console) -> None:
    """New tokens per second, beside a peer's."""
    checkpoint, rest = command_line.first(arguments, "benchmark generate needs a checkpoint: a run, a folder, a .gguf")
    options = command_line.parse(f"benchmark generate {checkpoint or 'CHECKPOINT'}", rest, Generation())
    with ExitStack() as stack:
        makers = {"ours": generation.ours} | ({"hf": generation.theirs} if options.against else {})
        given = checkpoint, options.batch, options.tokens
        sides = [stack.enter_context(pairs.side(name, make, *given)) for name, make in makers.items()]
        pairs.in_turn(sides, options.turns.rounds, options.turns.count)
    rows: list[tuple[str, list[str]]] = [
        ("new tokens/s", [f"{pairs.median(side, 'rate'):,.1f}" for side in sides]),
        ("peak memory", [f"{max(turn['memory'] for turn in side.turns) / 2**30:,.2f} GiB" for side in sides]),
        ("compiling", [f"{side.facts['compiling']:,.1f} s" for side in sides]),
    ]
    if len(sides) == 2:
        same = [a == b for a, b in zip(*(side.facts["said"] for side in sides), strict=True)]
        rows.append(("identical texts", [f"{sum(same)} of {len(same)}", ""]))
    tables.show(console, sides, rows, options.turns.out)


def score(arguments: Sequence[str], console: Console) -> None:
    """Items per second, beside a peer's."""
    checkpoint, rest = command_line.first(arguments, "benchmark score needs a checkpoint: a run, a folder, a .gguf")
    options = command_line.parse(f"benchmark score {checkpoint or 'CHECKPOINT'}", rest, Scoring())
    with ExitStack() as stack:
        makers = {"ours": scoring.ours} | ({"hf": scoring.theirs} if options.against else {})
        given = checkpoint, options.data, options.task, options.items
        sides = [stack.enter_context(pairs.side(name, make, *given)) for name, make in makers.items()]
        pairs.in_turn(sides, options.turns.rounds, options.turns.count)
    rows: list[tuple[str, list[str]]] = [
        (f"{options.task}: items/s", [f"{pairs.median(side, 'rate'):,.2f}" for side in sides]),
        ("peak memory", [f"{max(turn['memory'] for turn in side.turns) / 2**30:,.2f} GiB" for side in sides]),
        ("first pass, with compiling", [f"{side.facts['compiling']:,.1f} s" for side in sides]),
    ]
    if len(sides) == 2:
        apart = max(abs(a - b) for a, b in zip(*(side.facts["scores"] for side in sides), strict=True))
        rows.append(("log-likelihoods differ by at most", [f"{apart:.0e}", ""]))
    tables.show(console, sides, rows, options.turns.out)


def prepare(arguments: Sequence[str], console: Console) -> None:
    """Tokens per second of the loader alone, and of tokenising."""
    options = _training("data", arguments)
    with (
        pairs.side("loader", data_loading.loading, options.experiment) as loader,
        pairs.side("tokenising", data_loading.preparing, options.experiment) as tokenising,
    ):
        pairs.in_turn([loader], options.turns.rounds, options.turns.count)
        pairs.in_turn([tokenising], options.turns.rounds, 1)
    sides = [loader, tokenising]
    tables.show(
        console, sides, [("tokens/s", [f"{pairs.median(side, 'rate'):,.0f}" for side in sides])], options.turns.out
    )


def save(arguments: Sequence[str], console: Console) -> None:
    """What a checkpoint costs the steps that are taken while it is written."""
    options = _training("save", arguments)
    with (
        pairs.side("saving", checkpointing.steps, options.experiment, True) as with_save,
        pairs.side("not saving", checkpointing.steps, options.experiment, False) as without,
    ):
        pairs.in_turn([with_save, without], options.turns.rounds, options.turns.count)
    sides = [with_save, without]
    cost = pairs.median(with_save, "seconds") - pairs.median(without, "seconds")
    rows = [
        ("state", [f"{side.facts['bytes'] / 1e6:,.0f} MB" for side in sides]),
        ("turn", [f"{pairs.median(side, 'seconds'):,.2f} s" for side in sides]),
        (f"cost of a save every {SAVED_EVERY:.0f} s", [f"{cost / SAVED_EVERY:.2%}", ""]),
    ]
    tables.show(console, sides, rows, options.turns.out)


def start(arguments: Sequence[str], console: Console) -> None:
    """Seconds from the start of a process to the end of its first step, with nothing prepared, and the second time."""
    options = _training("start", arguments)
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESEARCH_CACHE"] = folder
        for name in ("first start", "second start"):
            with pairs.side(name, training.ours, options.experiment) as side:
                sides.append(side)
    rows = [("first step after", [f"{side.facts['first_step']:,.1f} s" for side in sides])]
    rows.append(("of it compiling", [f"{side.facts['compiling']:,.1f} s" for side in sides]))
    tables.show(console, sides, rows, options.turns.out)


def _training(what: str, arguments: Sequence[str]) -> Training:
    name, rest = command_line.first(arguments, f"benchmark {what} needs one of {', '.join(CASES)}, or a config file")
    default = Training(Experiment() if name is None else _experiment(name))
    return command_line.parse(f"benchmark {what} {name or 'CASE'}", rest, default)


def _experiment(name: str) -> Experiment:
    return CASES[name]() if name in CASES else config_file.read(Path(name))
