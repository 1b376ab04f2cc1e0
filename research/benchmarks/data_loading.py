"""What prepares data: tokenising, and the loader alone."""

import shutil
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from research import data
from research.benchmarks.pairs import Made, Measured
from research.benchmarks.training import loaded, opened
from research.config import Experiment


def loading(experiment: Experiment) -> Made:
    """The loader without a step: a unit of work is a batch."""
    experiment, corpus = opened(experiment)
    tokens = experiment.data.batch * experiment.data.length
    batches = loaded(corpus)

    def turn(count: int) -> Measured:
        begin = time.perf_counter()
        for _ in islice(batches, count):
            pass
        return {"rate": count * tokens / (time.perf_counter() - begin)}

    return {"tokens": tokens}, turn


def preparing(experiment: Experiment) -> Made:
    """From text to a token store, with the tokenizer that there already is: a unit of work is the whole source."""
    _, corpus = opened(experiment)
    folder = Path(tempfile.mkdtemp())
    corpus.tokenizer.save(folder / "tokenizer")
    stores = {plan.documents.store for plan in (*corpus.training.plans, *corpus.held_out_plans.values())}
    tokens = sum(store.meta["tokens"] for store in stores)

    def turn(count: int) -> Measured:
        seconds = 0.0
        for _ in range(count):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            changed = replace(experiment.data, cache=str(folder / "cache"), tokenizer=str(folder / "tokenizer"))
            begin = time.perf_counter()
            data.open_corpus(replace(experiment, data=changed))
            seconds += time.perf_counter() - begin
        return {"rate": count * tokens / seconds}

    return {"tokens": tokens}, turn
