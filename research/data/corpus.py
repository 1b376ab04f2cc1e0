"""The data of an experiment: `batch = f(seed, step)` for training, and a fixed sequence of batches of held-out data."""

import functools
import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import overload

import grain
import jax
import numpy as np
from absl import flags

from research import objectives
from research.config import Data, Experiment
from research.data import cache, mixture, packing, shards, sources, store, tokenising, tokenizers
from research.data.mixture import Mixture
from research.data.packing import DocumentRange, Plan, RowShape
from research.data.records import DataSource
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.objectives import Batch, Objective, Vocabulary
from research.runtime import processes

HELD_OUT = 0x68656C64  # begins the keys of held-out examples, which are the same for every seed


@dataclass(frozen=True)
class HeldOut(Sequence[Batch]):
    """The held-out rows of an objective in an order that is random but always the same; the last batch is filled up
    with empty rows. A host has its `host_rows` of each."""

    objective: Objective
    plan: Plan
    vocabulary: Vocabulary
    shape: RowShape
    batch_rows: int
    host_rows: Sequence[int]
    batches: range
    causal: bool  # as the training batches are, so that both have one program

    def __len__(self) -> int:
        return len(self.batches)

    @overload
    def __getitem__(self, number: int) -> Batch: ...

    @overload
    def __getitem__(self, number: slice) -> "HeldOut": ...

    def __getitem__(self, number: int | slice) -> "Batch | HeldOut":
        if isinstance(number, slice):
            return replace(self, batches=self.batches[number])
        first = self.batches[number] * self.batch_rows
        return objectives.stack([self._row(first + r) for r in self.host_rows], self.causal)

    def _row(self, place: int) -> Batch:
        if place >= self.plan.rows:
            source_length = self.shape.source_length if self.shape.encoder_decoder else None
            return objectives.row([], self.shape.length, source_length)
        key = (HELD_OUT, mixture.order(self.plan.rows, (HELD_OUT,), place))
        return mixture.row(self.objective, self.plan, key, self.vocabulary, self.shape)


@dataclass(frozen=True)
class Corpus:
    """What `open_corpus` returns."""

    tokenizer: Tokenizer
    training: Mixture
    held_out_plans: dict[str, Plan]
    workers: int

    @property
    def vocabulary(self) -> Vocabulary:
        return self.training.vocabulary

    @functools.cached_property
    def facts(self) -> str:
        """One line for the log: what there is to read, and how it fills rows."""
        training = self.training
        read: dict[str, None] = {}  # in the order of the objectives, each source once
        rows = []
        for objective, plan in zip(training.objectives, training.plans, strict=True):
            held_out = self.held_out_plans[objective.name].documents
            said = dict.fromkeys(it.store.skipped for it in (plan.documents, held_out))  # often of one store
            skipped = "".join(f", skipped {one}" for one in said if one)
            read[f"{_size(plan.documents)}, held out {_size(held_out)}{skipped}"] = None
            cut = packing.truncated(plan.documents, objective, training.shape)
            rows.append(
                f"{objective.name} {plan.rows:,} rows an epoch with {plan.padding:.1%} padding"
                + f" and {cut:,} pairs cut to fit" * (cut > 0)
            )
        return "; ".join([*read, f"vocabulary of {training.vocabulary.size:,} ids", *rows])

    @property
    def contents(self) -> dict[str, str]:
        """What each objective reads, in words that differ where the documents, their tokens or their division do."""
        plans = {"training": self.training.plans, "held out": tuple(self.held_out_plans.values())}
        names = list(self.held_out_plans)
        return {
            f"{name}, {use}": f"{_size(plan.documents)} ({plan.documents.store.digest} from {plan.documents.first:,})"
            for use, all_plans in plans.items()
            for name, plan in zip(names, all_plans, strict=True)
        }

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        """These rows of the global batch of a step: the share of one host. None: the whole."""
        return self.training.batch(step, rows)

    def objective_of_rows(self, step: int) -> np.ndarray:
        """int `[batch]`: the index of the objective of each row of a step."""
        return np.array([place.objective for place in self._places(step)])

    def documents(self, step: int) -> list[list[tuple[str, int]]]:
        """For each row of a step, the documents in it: their source, and their number among its usable ones, from 0."""
        plans = [(self.training.plans[place.objective], place.row) for place in self._places(step)]
        return [[(p.documents.store.meta["source"], piece.document) for piece in p.read(row)] for p, row in plans]

    def held_out(self, objective: Objective, rows: Sequence[int] | None = None) -> Sequence[Batch]:
        """Batches of an objective's held-out documents, of which a host takes its `rows`."""
        plan, training = self.held_out_plans[objective.name], self.training
        batches = range(-(-plan.rows // training.batch_rows))
        chosen = range(training.batch_rows) if rows is None else rows
        facts = plan, training.vocabulary, training.shape, training.batch_rows, chosen, batches, training.causal
        return HeldOut(objective, *facts)

    @contextmanager
    def loader(self, start: int, stop: int, rows: Sequence[int] | None = None) -> Iterator[Iterator[tuple[int, Batch]]]:
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
        with closing(_read(dataset)) as batches:
            yield batches
        gc.collect()  # grain's shared memory is returned with its last arrays, which are in cycles

    def _places(self, step: int) -> list[mixture.RowPlace]:
        rows = self.training.batch_rows
        return [self.training.place(number) for number in range(step * rows, (step + 1) * rows)]


def open_corpus(experiment: Experiment, tokenizer: Tokenizer | None = None) -> Corpus:
    """Finds or makes everything that the experiment's `data` and `objectives` ask for.

    Args:
      tokenizer: that of a saved run or of the checkpoint that training starts from; None: the one that
        `data.tokenizer` names. It gets the special tokens that the objectives need and it lacks.

    Raises:
      InputError: if a source, the tokenizer or a combination of them is unusable.
    """
    data, model = experiment.data, experiment.model
    folder = processes.cache_folder(data.cache)
    shape = RowShape(data.length, data.source_length or data.length, model.encoder_depth > 0)
    mixture.cycle(tuple(objective.rate for objective in experiment.objectives))  # wrong rates show before the long work
    tokenizer = open_tokenizer(experiment, tokenizer)
    if 0 < model.vocabulary < tokenizer.size:
        raise InputError(f"model.vocabulary: {model.vocabulary} is smaller than the tokenizer's {tokenizer.size} ids")

    @functools.cache
    def prepared(name: str, prefix: str, cut: float | None) -> store.Store:
        if data.prepared is not None:
            return shards.open_prepared(data.prepared.rstrip("/"), name, tokenizer, prefix, folder)
        return tokenising.prepare(sources.open_source(name), tokenizer, folder, prefix, cut)

    plans: list[Plan] = []
    held_out: dict[str, Plan] = {}
    for objective in experiment.objectives:
        objective.require(tokenizer.vocabulary, packing.longest(objective, shape))
        for_training, for_evaluation = _ranges(objective, data, prepared)
        plans.append(packing.plan(for_training, objective, shape))
        held_out[objective.name] = packing.plan(for_evaluation, objective, shape)
    training = Mixture(experiment.objectives, tuple(plans), tokenizer.vocabulary, shape, data.batch, experiment.seed)
    return Corpus(tokenizer, training, held_out, data.workers)


def open_tokenizer(experiment: Experiment, tokenizer: Tokenizer | None = None) -> Tokenizer:
    """That of the prepared folder, if it has one, else the one that `data.tokenizer` names, which is made if needed;
    with the special tokens of the objectives. `tokenizer`: of a saved run or of the checkpoint that training starts
    from, instead. Raises InputError if it is unusable."""
    data, folder = experiment.data, processes.cache_folder(experiment.data.cache)
    shape = RowShape(data.length, data.source_length or data.length, experiment.model.encoder_depth > 0)
    if tokenizer is None and data.prepared is not None:
        tokenizer = shards.read_tokenizer(data.prepared.rstrip("/"), folder)
    longest = [packing.longest(objective, shape) for objective in experiment.objectives]
    return tokenizers.extend(tokenizer or _tokenizer(experiment, folder), experiment.objectives, longest)


def source_names(experiment: Experiment) -> list[str]:
    """The names of all that is read, each once."""
    return list(dict.fromkeys(name for name, _ in sources_and_prefixes(experiment)))


def sources_and_prefixes(experiment: Experiment) -> list[tuple[str, str]]:
    """All that is read, each once, with the text that stands before every document."""
    data = experiment.data
    found = [(objective.source or data.source, objective.input_prefix) for objective in experiment.objectives]
    if isinstance(data.held_out, str):
        found += [(data.held_out, objective.input_prefix) for objective in experiment.objectives]
    return list(dict.fromkeys(found))


def _tokenizer(experiment: Experiment, folder: Path) -> Tokenizer:
    """As `data.tokenizer` says. One that is made from text is kept below the cache."""
    data = experiment.data
    spec = data.tokenizer
    if spec == "characters":  # an alphabet is no statistic, so it covers held-out data too
        names = [data.source, data.held_out, *(objective.source for objective in experiment.objectives)]
        opened = [sources.open_source(name) for name in dict.fromkeys(names) if isinstance(name, str)]
        prefixes = [objective.input_prefix for objective in experiment.objectives if objective.input_prefix]
        spec = _made(spec, folder, opened, prefixes, lambda: chain(*map(tokenising.texts, opened), prefixes))
    elif spec.startswith("train:"):
        source = sources.open_source(data.source)
        held_out = data.held_out if isinstance(data.held_out, float) else None
        spec = _made(spec, folder, [source], held_out, lambda: tokenising.training_texts(source, held_out))
    return tokenizers.load(spec)


def _made(spec: str, folder: Path, read: list[DataSource], how: object, texts: Callable[[], Iterable[str]]) -> str:
    """The folder of a tokenizer that is made from text, once."""
    name = "tokenizer-" + cache.key(tokenizers.FORMAT, spec, [source.fingerprint for source in read], how)
    return str(cache.made(folder / name, lambda unfinished: tokenizers.make(spec, texts).save(unfinished)))


def _ranges(
    objective: Objective, data: Data, prepared: Callable[[str, str, float | None], store.Store]
) -> tuple[DocumentRange, DocumentRange]:
    """The training and the held-out documents of an objective."""
    prefix, name = objective.input_prefix, objective.source or data.source
    if isinstance(data.held_out, str):
        whole, other = prepared(name, prefix, None), prepared(data.held_out, prefix, None)
        return DocumentRange(whole, 0, whole.documents), DocumentRange(other, 0, other.documents)
    whole = prepared(name, prefix, data.held_out)
    middle = whole.documents - tokenising.held_out_count(whole.documents, data.held_out)
    return DocumentRange(whole, 0, middle), DocumentRange(whole, middle, whole.documents)


def _read(dataset: grain.IterDataset) -> Generator[tuple[int, Batch], None, None]:
    """Copies, because what comes from grain's worker processes is shared with them and ends with them."""
    with closing(iter(dataset)) as iterator:
        for step, batch in iterator:
            yield step, jax.tree.map(np.array, batch)


def _size(documents: DocumentRange) -> str:
    count = documents.last - documents.first
    return f"{count:,} documents of {packing.tokens(documents):,} tokens from {documents.store.meta['source']}"
