"""`batch = f(seed, step)`: which rows of which objectives make a batch, and the batch itself.

Row number n of training (step * batch + its place in the batch) belongs to an objective by a shuffled cycle that holds
every objective in proportion to its rate. The k-th row of an objective is a row of its plan: each once an epoch, every
epoch in another order. Nothing depends on what was read before, or on how many hosts and processes read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import grain
import numpy as np

from research import objectives
from research.data.packing import Plan, RowShape
from research.errors import InputError
from research.objectives import Batch, Objective, Vocabulary, pytree  # noqa: F401 the loader passes arrays on

LONGEST_CYCLE = 1000
IN_MEMORY = 1 << 18  # rows of an epoch
MIX, ORDER, EXAMPLE = range(3)  # what a random number is for


class RowPlace(NamedTuple):
    """Where a row of a batch comes from."""

    objective: int
    epoch: int
    row: int  # of the objective's plan


@dataclass(frozen=True)
class Mixture:
    """The training rows of an experiment, endless."""

    objectives: tuple[Objective, ...]
    plans: tuple[Plan, ...]
    vocabulary: Vocabulary
    shape: RowShape
    batch_rows: int
    seed: int

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        """These rows of the global batch of a step: the share of one host. None: the whole."""
        chosen = range(self.batch_rows) if rows is None else rows
        return objectives.stack([self._row(self.place(step * self.batch_rows + r)) for r in chosen], self.causal)

    @cached_property
    def causal(self) -> bool:
        """Whether all batches are (`Batch.causal`)."""
        return objectives.causal_only(self.objectives, self.shape.encoder_decoder)

    def place(self, number: int) -> RowPlace:
        """Where row `number` of training comes from."""
        counts = cycle(tuple(objective.rate for objective in self.objectives))
        turn, place = divmod(number, sum(counts))
        which, earlier = _turn(counts, self.seed, turn)
        objective = int(which[place])
        ordinal = turn * counts[objective] + int(earlier[place])
        epoch, row = divmod(ordinal, self.plans[objective].rows)
        return RowPlace(objective, epoch, order(self.plans[objective].rows, (self.seed, ORDER, objective, epoch), row))

    def _row(self, place: RowPlace) -> Batch:
        key = (self.seed, EXAMPLE, *place)
        return row(self.objectives[place.objective], self.plans[place.objective], key, self.vocabulary, self.shape)


def row(objective: Objective, plan: Plan, key: tuple[int, ...], vocabulary: Vocabulary, shape: RowShape) -> Batch:
    """The row of a plan that the last integer of `key` names."""
    examples = [
        objective.example(piece.parts, (*key, segment), vocabulary, shape.encoder_decoder)
        for segment, piece in enumerate(plan.read(key[-1]))
    ]
    return objectives.row(examples, shape.length, shape.source_length if shape.encoder_decoder else None)


def order(rows: int, key: tuple[int, ...], place: int) -> int:
    """The row at a place of a random permutation."""
    return int(_permutation(rows, key)[place])


@lru_cache
def cycle(rates: tuple[float, ...]) -> tuple[int, ...]:
    """Rows of each objective in the shortest cycle that has their rates exactly, or else in a cycle of LONGEST_CYCLE.

    Raises:
      InputError: if a rate is too small to appear in it.
    """
    shares = np.array(rates) / sum(rates)
    for size in range(1, LONGEST_CYCLE + 1):
        counts = np.round(shares * size).astype(int)
        if np.abs(shares * size - counts).max() < 1e-6 and counts.sum() == size:
            break
    else:
        counts = np.floor(shares * size).astype(int)
        counts[np.argsort(counts - shares * size)[: size - counts.sum()]] += 1  # the largest remainders
    if counts.min() == 0:
        raise InputError(f"objectives' rates {rates}: the smallest is below 1 in {LONGEST_CYCLE} rows")
    return tuple(counts.tolist())


@lru_cache(maxsize=64)
def _turn(counts: tuple[int, ...], seed: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """`[rows of a cycle]` each: the objective of a row, and how many rows of it precede in this turn of the cycle."""
    which = np.repeat(np.arange(len(counts)), counts)
    if len(counts) > 1:
        which = np.random.default_rng((seed, MIX, turn)).permutation(which)
    earlier = np.zeros(len(which), int)
    for objective, count in enumerate(counts):
        earlier[which == objective] = np.arange(count)
    return which, earlier


@lru_cache(maxsize=64)
def _permutation(rows: int, key: tuple[int, ...]) -> "np.ndarray | grain.MapDataset":
    """Grain's needs no memory, so that there may be billions of rows, but is slow where they are few."""
    if rows <= IN_MEMORY:
        return np.random.default_rng(key).permutation(rows)
    return grain.MapDataset.range(rows).shuffle(seed=int(np.random.SeedSequence(key).generate_state(1)[0]))
