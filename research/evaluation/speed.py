"""How fast questions are scored, beside lm-evaluation-harness with its own `hf` backend (torch; extra `harness`)."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from research import config, interop
from research.config import Causal
from research.data.tokenizers import Tokenizer
from research.evaluation import scoring, tasks
from research.evaluation.asking import Manner
from research.evaluation.requests import Continuation
from research.evaluation.scoring import Model
from research.models import Params

BATCHES = (1, 8, 32)  # of the harness, of which the fastest one is taken
POSITIONS = 1024  # places that a request may take, on both sides


class Checkpoint(NamedTuple):
    """What `scoring.Model` asks for."""

    config: config.Model
    params: Params
    tokenizer: Tokenizer


class Pair(NamedTuple):
    """Items a second, measured one after the other."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def beside_harness(
    checkpoint: str, data: Path, task: str = "arc_easy", items: int = 64, pairs: int = 5, start: int = 0
) -> list[Pair]:
    """Scores the same questions in turns with the same float32 weights, after a turn of each that is not counted.

    Args:
      checkpoint: a GGUF file or a Hugging Face folder of a causal model.
      data: folder with the task's file.
      task: a multiple-choice task.
      items: questions of a turn.
      pairs: turns of each.
      start: the first question.

    Raises:
      InputError: if the checkpoint or the task cannot be read.
      AssertionError: if the two do not agree on the log-likelihoods.
    """
    model = Checkpoint(*interop.load(checkpoint))
    asked = tasks.open(tasks.load(task), [data], limit=start + items).items[start:]
    requests = [option for item in asked for option in item.options if isinstance(option, Continuation)]
    ours = _ours(model, requests)
    with tempfile.TemporaryDirectory() as folder:
        interop.write(Path(folder, "model"), *model)
        turns = [_theirs(Path(folder, "model"), requests, batch) for batch in BATCHES]
    theirs = min(turns, key=_seconds)
    assert np.abs(ours() - theirs()).max() < 1e-2, "the two do not agree"
    return [Pair(items / _seconds(ours), items / _seconds(theirs)) for _ in range(pairs)]


def ratio(pairs: Sequence[Pair]) -> float:
    """The median of the ratios: how many times faster ours is."""
    return median(pair.ratio for pair in pairs)


def _seconds(turn: Callable[[], np.ndarray]) -> float:
    begin = time.monotonic()
    turn()
    return time.monotonic() - begin


def _ours(model: Model, requests: Sequence[Continuation]) -> Callable[[], np.ndarray]:
    manner = Manner(Causal(), model.tokenizer, POSITIONS)

    def turn() -> np.ndarray:
        found = dict(pair for done in scoring.score(model, manner, requests) for pair in done.scores)
        return np.array([score.log_probability for _, score in sorted(found.items()) if score is not None])

    return turn


def _theirs(folder: Path, requests: Sequence[Continuation], batch: int) -> Callable[[], np.ndarray]:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HFLM(str(folder), dtype=torch.float32, batch_size=batch, max_length=POSITIONS, device=device)
    instances = [Instance("loglikelihood", {}, tuple(one), number) for number, one in enumerate(requests)]
    return lambda: np.array([score for score, _ in model.loglikelihood(instances, disable_tqdm=True)])


if __name__ == "__main__":
    import sys

    for pair in beside_harness(sys.argv[1], Path(sys.argv[2])):
        print(f"{pair.ours:.2f} items/s beside {pair.theirs:.2f}: {pair.ratio:.2f}")
