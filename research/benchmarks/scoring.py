"""Scoring speed: our evaluator, and lm-evaluation-harness with its own `hf` backend on torch (extra `harness`)."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

import research
from research import interop
from research.benchmarks.pairs import Made, Measured
from research.errors import InputError
from research.evaluation import tasks
from research.evaluation.items import Item
from research.inference.requests import Continuation
from research.runtime import processes

BATCHES = (1, 8, 32)  # of the harness, of which the fastest one is taken
POSITIONS = 1024  # places that a request may take, on both sides


def ours(checkpoint: str, data: tuple[Path, ...], task: str, items: int) -> Made:
    """A unit of work is all the items."""
    processes.configure_jax()
    lm, asked = research.load(checkpoint), _items(data, task, items)
    prompt_format, requests = lm.prompt_formats(length=POSITIONS)[0], _requests(asked)

    def run() -> list[float]:
        found = dict(pair for done in lm.score_requests(prompt_format, requests) for pair in done.scores)
        return [0.0 if score is None else score.log_probability for _, score in sorted(found.items())]

    return _made(run, len(asked))


def theirs(checkpoint: str, data: tuple[Path, ...], task: str, items: int) -> Made:
    """The same float32 weights, exported by us, in batches of the size that is fastest."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    asked = _items(data, task, items)
    instances = [Instance("loglikelihood", {}, tuple(one), number) for number, one in enumerate(_requests(asked))]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder, jax.default_device(jax.devices("cpu")[0]):
        interop.write(Path(folder, "model"), *interop.load_checkpoint(checkpoint))
        settings = {"dtype": torch.float32, "max_length": POSITIONS, "device": device}
        models = [HFLM(str(Path(folder, "model")), batch_size=batch, **settings) for batch in BATCHES]

    def with_(model: HFLM) -> Callable[[], list[float]]:
        return lambda: [score for score, _ in model.loglikelihood(instances, disable_tqdm=True)]

    runs = [with_(model) for model in models]
    runs[0]()  # the first pass is slower than any other
    return _made(min(runs, key=_seconds), len(asked))


def _items(data: tuple[Path, ...], task: str, items: int) -> tuple[Item, ...]:
    asked = tasks.open_task(tasks.load_task(task), data, limit=items).items
    if not all(isinstance(option, Continuation) for item in asked for option in item.options):
        raise InputError(f"task {task}: the harness scores continuations only")
    return asked


def _requests(items: tuple[Item, ...]) -> list[Continuation]:
    return [option for item in items for option in item.options if isinstance(option, Continuation)]


def _made(run: Callable[[], list[float]], items: int) -> Made:
    compiling = time.monotonic()
    scores = run()
    facts = {"compiling": time.monotonic() - compiling, "scores": scores}

    def turn(count: int) -> Measured:
        return {"rate": count * items / sum(_seconds(run) for _ in range(count)), "memory": processes.peak_memory()}

    return facts, turn


def _seconds(run: Callable[[], list[float]]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
