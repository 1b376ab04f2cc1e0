"""The data of an experiment: `batch = f(seed, step)` for training, and a fixed sequence of batches for held-out loss."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grain
import numpy as np
from absl import flags

from research import config, objectives
from research.config import Data, Experiment
from research.data import cache, mixture, packing, sources, store, tokenizers
from research.data.mixture import Mixture
from research.data.packing import Plan, Range, Shape
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.objectives import Batch, Vocabulary

log = logging.getLogger(__name__)

HELD_OUT = 0x68656C64  # begins the keys of held-out examples, which are the same for every seed


@dataclass(frozen=True)
class HeldOut(Sequence[Batch]):
    """The held-out rows of an objective in an order that is random but always the same; the last batch is filled up
    with empty rows. A host has its `host_rows` of each."""

    objective: config.Objective
    plan: Plan
    vocabulary: Vocabulary
    shape: Shape
    batch_rows: int
    host_rows: slice
    batches: range

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number):  # type: ignore[no-untyped-def, override]
        if isinstance(number, slice):
            return replace(self, batches=self.batches[number])
        first = self.batches[number] * self.batch_rows
        return objectives.stack([self._row(first + r) for r in range(self.batch_rows)[self.host_rows]])

    def _row(self, place: int) -> Batch:
        if place >= self.plan.rows:
            source_length = self.shape.source_length if self.shape.encoder_decoder else None
            return objectives.row([], self.shape.length, source_length)
        key = (HELD_OUT, mixture.order(self.plan.rows, (HELD_OUT,), place))
        return mixture.row(self.objective, self.plan, key, self.vocabulary, self.shape)


@dataclass(frozen=True)
class Corpus:
    """What `open` gives."""

    tokenizer: Tokenizer
    training: Mixture
    held_out_plans: dict[str, Plan]
    workers: int
    facts: str  # one line for the log

    @property
    def vocabulary(self) -> Vocabulary:
        return self.training.vocabulary

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """`rows` of the global batch of a step: the whole, or the share of one host."""
        return self.training.batch(step, rows)

    def objective_of_rows(self, step: int) -> np.ndarray:
        """int `[batch]`: the index of the objective of each row of a step."""
        return np.array([place.objective for place in self._places(step)])

    def documents(self, step: int) -> list[list[tuple[str, int]]]:
        """For each row of a step, the documents in it: their source, and their number in it."""
        plans = [(self.training.plans[place.objective], place.row) for place in self._places(step)]
        return [[(p.documents.store.meta["source"], piece.document) for piece in p.read(row)] for p, row in plans]

    def held_out(self, objective: config.Objective, rows: slice = slice(None)) -> Sequence[Batch]:
        """Batches of an objective's held-out documents, of which a host takes its `rows`."""
        plan, training = self.held_out_plans[objective.name], self.training
        batches = range(-(-plan.rows // training.batch_rows))
        return HeldOut(objective, plan, training.vocabulary, training.shape, training.batch_rows, rows, batches)

    @contextmanager
    def loader(self, start: int, stop: int, rows: slice = slice(None)) -> Iterator[Iterator[tuple[int, Batch]]]:
        """(step, batch) for the steps from `start` to `stop`, prepared ahead by a thread or by worker processes, which
        end with the context."""
        training = self.training  # a worker needs neither the tokenizer nor the held-out data
        steps = grain.MapDataset.range(start, stop).map(lambda step: (step, training.batch(step, rows)))
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        if not self.workers:
            dataset = steps.to_iter_dataset(ahead)
        else:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain's worker processes read the flags of absl
            dataset = steps.to_iter_dataset(grain.ReadOptions(num_threads=0)).mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self.workers, per_worker_buffer_size=4)
            )
        with closing(iter(dataset)) as iterator:
            yield iterator

    def _places(self, step: int) -> list[mixture.Place]:
        rows = self.training.batch_rows
        return [self.training.place(number) for number in range(step * rows, (step + 1) * rows)]


def open(experiment: Experiment, tokenizer: Tokenizer | None = None) -> Corpus:
    """Finds or makes everything that the experiment's `data` and `objectives` ask for.

    Args:
      tokenizer: that of a saved run; else the one that `data.tokenizer` names, with the special tokens that the
        objectives need.

    Raises:
      InputError: if a source, the tokenizer or a combination of them is unusable.
    """
    data, model = experiment.data, experiment.model
    folder = cache.root(data.cache)
    shape = Shape(data.length, data.source_length or data.length, model.encoder_depth > 0)
    tokenizer = tokenizer or _tokenizer(experiment, folder, shape)
    if 0 < model.vocabulary < tokenizer.size:
        raise InputError(f"model.vocabulary: {model.vocabulary} is smaller than the tokenizer's {tokenizer.size} ids")
    plans: list[Plan] = []
    held_out: dict[str, Plan] = {}
    for objective in experiment.objectives:
        if not isinstance(objective, config.TextToText):
            objectives.require(objective, tokenizer.vocabulary, packing.longest(objective, shape))
        training_range, held_out_range = _ranges(objective, data, tokenizer, folder)
        plans.append(packing.plan(training_range, objective, shape))
        held_out[objective.name] = packing.plan(held_out_range, objective, shape)
    training = Mixture(experiment.objectives, tuple(plans), tokenizer.vocabulary, shape, data.batch, experiment.seed)
    mixture.cycle(tuple(objective.rate for objective in experiment.objectives))
    return Corpus(tokenizer, training, held_out, data.workers, _facts(training, held_out))


def _tokenizer(experiment: Experiment, folder: Path, shape: Shape) -> Tokenizer:
    """Made from the training part of `data.source` if it must be, and kept below the cache."""
    data = experiment.data
    spec, fraction = data.tokenizer, data.held_out if isinstance(data.held_out, float) else None
    if spec == "characters" or spec.startswith("train:"):
        source = sources.open(data.source)
        made = folder / ("tokenizer-" + cache.key(spec, source.fingerprint, fraction))
        if not made.exists():
            with cache.building(made) as unfinished:
                tokenizers.make(spec, lambda: store.training_texts(source, fraction)).save(unfinished)
        spec = str(made)
    return tokenizers.extend(tokenizers.load(spec), experiment.objectives)


def _ranges(objective: config.Objective, data: Data, tokenizer: Tokenizer, folder: Path) -> tuple[Range, Range]:
    """The training and the held-out documents of an objective."""
    prefix = objective.prefix if isinstance(objective, config.TextToText) else ""
    source = sources.open(objective.source or data.source)
    if isinstance(data.held_out, str):
        prepared = store.prepare(source, tokenizer, folder, prefix)
        other = store.prepare(sources.open(data.held_out), tokenizer, folder, prefix)
        return Range(prepared, 0, prepared.documents), Range(other, 0, other.documents)
    prepared = store.prepare(source, tokenizer, folder, prefix, data.held_out)
    middle = prepared.documents - store.held_out_count(prepared.documents, data.held_out)
    return Range(prepared, 0, middle), Range(prepared, middle, prepared.documents)


def _facts(training: Mixture, held_out: dict[str, Plan]) -> str:
    """Documents, tokens and rows, in one line."""
    ranges = {
        plan.documents: held_out[o.name].documents for o, plan in zip(training.objectives, training.plans, strict=True)
    }
    read = "; ".join(
        f"{train.store.meta['source']}: {train.last - train.first:,} documents of {packing.tokens(train):,} tokens, "
        f"held out {other.last - other.first:,} of {packing.tokens(other):,}"
        for train, other in ranges.items()
    )
    rows = ", ".join(
        f"{objective.name} {plan.rows:,} rows an epoch"
        for objective, plan in zip(training.objectives, training.plans, strict=True)
    )
    return f"{read}; {training.vocabulary.size:,} token ids; {rows}"
