"""Data that is tokenised before the run: what the command `prepare` does."""

from collections.abc import Callable
from pathlib import Path

from research.config import Experiment, validation
from research.data import corpus, shards, sources
from research.data.shards import Part
from research.errors import InputError
from research.runs import initial


def prepare(experiment: Experiment, part: Part, workers: int, say: Callable[[str], None]) -> bool:
    """Fills the prepared folder of an experiment with the share of one machine. Returns whether all of it is there now;
    then what it holds is said, and rows are planned for the objectives that need it.

    Raises:
      InputError: if the experiment, a source or the tokenizer is unusable, or no folder is named.
    """
    prepared = experiment.data.prepared
    if prepared is None or "://" in prepared:
        raise InputError(
            f"data.prepared: {prepared}; `prepare` writes to a folder: --data.prepared FOLDER, where a bucket may be "
            "mounted. `train` reads it there, or from gs://…"
        )
    validation.validate(experiment)
    start = None if experiment.initialize_from is None else initial.describe(experiment.initialize_from).tokenizer
    folder = Path(prepared)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = corpus.open_tokenizer(experiment, start)
    shards.keep_tokenizer(folder, tokenizer)
    complete = True
    for name, prefix in corpus.sources_and_prefixes(experiment):
        made = shards.make(folder, sources.open_source(name), tokenizer, prefix, part, workers, say)
        complete &= made is not None
    if complete:
        say(corpus.open_corpus(experiment, tokenizer).facts)
    return complete
