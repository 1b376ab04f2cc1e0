"""A checkpoint on a task: ask, measure, compare with what needs no understanding."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from research import config, models
from research.errors import InputError
from research.evaluation import baselines, metrics, scoring, statistics
from research.evaluation.asking import Manner, manners
from research.evaluation.cache import Cache, fingerprint
from research.evaluation.generation import Sampling
from research.evaluation.requests import Generation, Outcome, Scorable, Score
from research.evaluation.statistics import Estimate, Sums
from research.evaluation.tasks import FOLDER, Questions
from research.lm import LanguageModel
from research.training.sharding import Layout

PROMPTS = 16  # generated at once
STOP_WORDS = frozenset((FOLDER / "stop_words.txt").read_text().split())
Progress = Callable[[float, str], None]  # the share that is done, of what


@dataclass(frozen=True)
class Subject:
    """A checkpoint, asked in one manner."""

    name: str  # as it is shown
    model: LanguageModel
    manner: Manner
    cache: Cache
    layout: Layout | None = None


@dataclass(frozen=True)
class Measured:
    """A metric with all that it takes to judge it."""

    metric: str
    better: str
    estimate: Estimate
    baselines: dict[str, float]
    normalised: float | None  # 0 at chance, 1 when all is right
    verdict: str


@dataclass(frozen=True)
class Result:
    """A checkpoint on a task. Without an answer to it (`measured` is empty) it is not applicable, which is not 0."""

    checkpoint: str
    task: str
    manner: str
    kind: str  # exact or pseudo
    shots: int
    items: int
    documents: int
    truncated: int  # items whose context was longer than the model
    source: str
    digest: str
    measured: tuple[Measured, ...]
    note: str = ""  # why there is no answer

    def to_json(self) -> dict[str, Any]:
        """With null where a bound or a score is not a number."""
        return json.loads(re.sub(r"\bNaN\b", "null", json.dumps(asdict(self))))


def subjects(
    name: str, model: LanguageModel, folder: Path, length: int | None = None, layout: Layout | None = None
) -> list[Subject]:
    """A checkpoint in every manner in which it can be asked, the preferred one first.

    Args:
      name: as it is shown.
      model: the checkpoint.
      folder: where answers are kept.
      length: places that a request may take; None: as many as the model has positions.
      layout: devices over which batches are split.
    """
    longest = model.config.max_positions - model.config.position_offset
    if length is not None and length > longest and model.config.positions == "learned":
        raise InputError(f"--length {length}: the model has {longest} positions")
    found = []
    for objective in manners(model.objectives):
        places = length or longest
        manner = Manner(objective, model.tokenizer, places, places if model.config.encoder_depth else None)
        cache = Cache(folder / f"{fingerprint(model, manner)}.jsonl")
        found.append(Subject(name, model, manner, cache, layout))
    return found


def untrained(subject: Subject, folder: Path) -> Subject:
    """The same model before training, with seed 0."""
    model = replace(
        subject.model, params=jax.jit(models.init, static_argnums=0)(subject.model.config, jax.random.key(0))
    )
    cache = Cache(folder / f"{fingerprint(model, subject.manner)}.jsonl")
    return Subject("untrained", model, subject.manner, cache, subject.layout)


def answer(subject: Subject, questions: Questions, progress: Progress = lambda share, of: None) -> list[Outcome] | None:
    """The outcomes of a task's items, or None if the model has no answer to them.

    Raises:
      InputError: if a text to be scored is longer than the model, or cannot be encoded.
    """
    task = questions.task
    if task.kind == "generate":
        return _generated(subject, questions, progress)
    wanted = dict.fromkeys(request for item in questions.items for request in (*item.options, *item.neutral))
    if not all(map(subject.manner.can, wanted)):
        return None
    forbidden = _stop_tokens(subject) if "greedy_without_stop_words" in task.metrics else ()
    new = [request for request in wanted if subject.cache.get(request, forbidden) is None]
    for done in scoring.score(subject.model, subject.manner, new, forbidden, subject.layout):
        answers = [(new[number], one) for number, one in done.scores if one is not None]
        subject.cache.put(answers, forbidden)
        progress(done.share, f"{task.name}, {subject.name}")

    def known(requests: Sequence[Scorable]) -> tuple[Score, ...]:
        answers = [subject.cache.get(request, forbidden) for request in requests]
        return tuple(one for one in answers if isinstance(one, Score))

    return [Outcome(item, known(item.options), known(item.neutral)) for item in questions.items]


def _generated(subject: Subject, questions: Questions, progress: Progress) -> list[Outcome] | None:
    objective = subject.manner.objective
    if not isinstance(objective, config.Causal | config.Prefix | config.TextToText):
        return None
    model = replace(subject.model, objectives=(objective,))
    wanted = dict.fromkeys(item.generation for item in questions.items if item.generation is not None)
    new = sorted((one for one in wanted if subject.cache.get(one) is None), key=lambda one: len(one.context))
    for start in range(0, len(new), PROMPTS):
        part = new[start : start + PROMPTS]
        prompts = [_fitting(subject, one)[0] for one in part]
        subject.cache.put(zip(part, model.generate(prompts, _sampling(part[0])), strict=True))
        progress((start + len(part)) / len(new), f"{questions.task.name}, {subject.name}")
    return [
        Outcome(item, output=_compared(str(subject.cache.get(item.generation)), questions.task.sentences))
        for item in questions.items
        if item.generation is not None
    ]


def _sampling(one: Generation) -> Sampling:
    greedy = one.top_k == 1
    return Sampling(tokens=one.tokens, temperature=0.0 if greedy else 1.0, top_k=one.top_k, stop=one.stop)


def _fitting(subject: Subject, one: Generation) -> tuple[str, bool]:
    """The end of a context that leaves room for what is generated, and whether it was cut."""
    tokens = subject.model.tokenizer.encode(one.context)
    room = subject.manner.source_length or subject.manner.length - one.tokens
    room -= len(subject.manner.bos) + len(subject.manner.eos)
    cut = len(tokens) > room
    return (subject.model.tokenizer.decode(tokens[-room:]) if cut else one.context), cut


def _compared(output: str, sentences: int | None) -> str:
    parts = re.split(r"(?<=[.!?])\s+", output.strip())
    return " ".join(parts[:sentences])


def _stop_tokens(subject: Subject) -> tuple[int, ...]:
    """Tokens that are a stop word by themselves."""
    pieces = subject.model.tokenizer.pieces(range(subject.model.tokenizer.size))
    return tuple(number for number, piece in enumerate(pieces) if piece.strip().lower() in STOP_WORDS)


def measure(
    subject: Subject, questions: Questions, outcomes: Sequence[Outcome], others: Mapping[str, Sequence[Outcome]]
) -> Result:
    """The task's metrics on the outcomes, beside `others` (an untrained model) and what needs no model."""
    task = questions.task
    others = dict(others)
    if task.kind == "generate":
        others["most frequent answer"] = baselines.most_frequent(outcomes)
    else:
        others["uniform bytes"] = baselines.uniform_bytes(outcomes)
    measured = tuple(_measure(name, outcomes, others) for name in task.metrics)
    return replace(not_applicable(subject, questions, ""), measured=measured, truncated=_truncated(subject, outcomes))


def _measure(name: str, outcomes: Sequence[Outcome], others: Mapping[str, Sequence[Outcome]]) -> Measured:
    metric, sums = metrics.METRICS[name], metrics.sums(name, outcomes)
    blind = baselines.blind(outcomes) if metric.credit else {}
    found = {**blind, **{other: metrics.sums(name, theirs) for other, theirs in others.items()}}
    if metric.chance:
        found = {"chance": metrics.sums(name, baselines.even(outcomes)), **found}
    values = {other: one.value for other, one in found.items()}
    estimate = statistics.estimate(sums)
    if not metric.credit:
        return Measured(name, metric.better, estimate, values, None, _against(sums, found, metric.better))
    normalised = statistics.chance_normalised(sums.value, values["chance"])
    return Measured(
        name, metric.better, estimate, values, normalised, statistics.verdict(sums, values["chance"], blind)
    )


def _against(sums: Sums, others: Mapping[str, Sums], better: str) -> str:
    """Where chance is no null: the score against the best of the others, on the same items."""
    sign = 1 if better == "higher" else -1
    name, other = max(others.items(), key=lambda pair: sign * pair[1].value)
    gain = statistics.difference(sums, other)
    low, high = (gain.low, gain.high) if sign > 0 else (-gain.high, -gain.low)
    if math.isnan(low) or low <= 0 <= high:
        return f"not distinguishable from {name}"
    return f"better than {name}" if low > 0 else f"worse than {name}"


def not_applicable(subject: Subject, questions: Questions, note: str) -> Result:
    """A result without a score."""
    return Result(
        subject.name,
        questions.task.name,
        subject.manner.objective.name,
        subject.manner.kind,
        questions.shots,
        len(questions.items),
        len({item.document for item in questions.items}),
        0,
        questions.source,
        questions.digest,
        (),
        note,
    )


def _truncated(subject: Subject, outcomes: Sequence[Outcome]) -> int:
    return sum(
        any(score.truncated for score in outcome.scores)
        or (outcome.item.generation is not None and _fitting(subject, outcome.item.generation)[1])
        for outcome in outcomes
    )
