"""A run before its first step: its experiment, data and compiled steps."""

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from research import config, data
from research.config import Experiment
from research.data import Corpus
from research.runs import run_folder
from research.runs.checks import Checked
from research.runtime import processes
from research.training.compiled_steps import CompiledSteps, compiled_steps


@dataclass(frozen=True)
class Prepared:
    """What every part of a run needs."""

    folder: Path
    experiment: Experiment  # resolved
    corpus: Corpus
    compiled: CompiledSteps


def prepare(checked: Checked, folder: Path, console: Console) -> Prepared:
    """Finds or makes the data, and claims the folder. Raises InputError if something is wrong that only the data could
    show."""
    run = open_data(checked, folder, console)
    if processes.is_main_process():
        for line in run_folder.changes(folder, run.experiment):
            console.print(Text(f"not as before: {line}"), soft_wrap=True)
        run_folder.claim(folder, run.experiment, run.corpus.tokenizer, run.corpus.contents)
    run_folder.check_shared(folder)
    return run


def open_data(checked: Checked, folder: Path, console: Console) -> Prepared:
    """As `prepare`, but writes nothing in the folder."""
    corpus = data.open_corpus(checked.experiment, None if checked.source is None else checked.source.tokenizer)
    console.print(Text(corpus.facts))
    longest = max(checked.experiment.data.length, checked.experiment.data.source_length or 0)
    model = config.resolve(checked.experiment.model, corpus.vocabulary.size, longest)
    experiment = replace(checked.experiment, model=model)
    return Prepared(folder, experiment, corpus, compiled_steps(experiment))
