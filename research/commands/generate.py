"""The command `generate CHECKPOINT --prompt TEXT …`: continues, answers, or fills in, as the model was trained to."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.text import Text

import research
from research import config
from research.commands import command_line
from research.errors import InputError
from research.inference.generation import Sampling
from research.inference.language_model import LanguageModel
from research.inference.text_examples import MASK
from research.runtime import processes

GAP = "[SPAN]"  # where a span is to be filled in


@dataclass(frozen=True)
class Options:
    """Continues each prompt, or answers it; fills in every [MASK]; or fills in one [SPAN] of text."""

    prompt: tuple[str, ...] = ()  # one or more texts
    samples: int = 1  # of each prompt
    candidates: int = 5  # for each [MASK]
    objective: str | None = None  # by name, where the model was trained with several that can do it; None: the first
    # devices over which a model that is larger than one is split, as --mesh.tensor 8; not given: one
    mesh: config.Mesh | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the parameters on the devices
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)


def main(arguments: list[str]) -> None:
    checkpoint, rest = command_line.first(
        arguments, "generate begins with a checkpoint: generate runs/quickstart --prompt 'Return the'"
    )
    options = command_line.parse(f"generate {checkpoint or 'CHECKPOINT'}", rest, Options())
    if checkpoint is None or not options.prompt:
        raise InputError("nothing to do: give --prompt TEXT")
    processes.configure_jax()
    show(research.load(checkpoint, options.mesh, options.dtype), options, Console())


def show(lm: LanguageModel, options: Options, console: Console) -> None:
    """Prints what the model makes of each prompt."""
    plain = [text for text in options.prompt if MASK not in text and GAP not in text]
    said = dict(
        zip(
            plain,
            lm.generate(plain, options.sampling, options.samples, options.objective) if plain else [],
            strict=True,
        )
    )
    for text in options.prompt:
        if MASK in text:
            for number, candidates in enumerate(lm.fill(text, options.candidates), start=1):
                listed = ", ".join(f"{each.token!r} {each.probability:.3f}" for each in candidates)
                console.print(Text.assemble((text, "dim"), f"\n{MASK} {number}: ", (listed, "bold green")))
        elif GAP in text:
            left, _, right = text.partition(GAP)
            span = lm.infill(left, right, options.sampling, options.objective)
            console.print(Text.assemble((left, "dim"), (span, "bold green"), (right, "dim")))
        else:
            for continuation in [said[text]] if options.samples == 1 else said[text]:
                console.print(Text.assemble((text, "dim"), (continuation, "bold green")))
