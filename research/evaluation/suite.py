"""A checkpoint on a task: ask, measure, compare with what needs no understanding."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import jax

from research import config, models, sharding
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.evaluation import baselines, metrics, statistics
from research.evaluation.answer_cache import Cache, fingerprint
from research.evaluation.statistics import Estimate, Sums
from research.evaluation.tasks import FOLDER, TaskDataset
from research.inference import batch_generation, prompting, scoring
from research.inference.prompting import PromptFormat
from research.inference.requests import Continuation, Item, Outcome, Scorable, Score
from research.inference.scoring import Model
from research.models import Params
from research.sharding import Layout

STOP_WORDS = frozenset((FOLDER / "stop_words.txt").read_text().split())
Progress = Callable[[float, str], None]  # the share that is done, of what


class Trained(Model, prompting.Trained, Protocol):
    """A model, and what it was trained to do."""


@dataclass(frozen=True)
class Untrained:
    """A model as it was before training."""

    config: config.Model
    params: Params
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Subject:
    """A checkpoint, asked in one manner."""

    name: str  # as it is shown
    model: Model
    manner: PromptFormat
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

    @property
    def label(self) -> str:
        """The task, and how many worked examples were shown."""
        return f"{self.task}, {self.shots} shots" if self.shots else self.task

    def to_json(self) -> dict[str, Any]:
        return without_nan(asdict(self))


def without_nan(tree: Any) -> Any:
    """The tree as JSON has it, with null where a bound or a score is not a number."""
    return json.loads(json.dumps(tree), parse_constant=lambda name: None if name == "NaN" else float(name))


def subjects(
    name: str,
    model: Trained,
    folder: Path,
    manner: str | None = None,
    length: int | None = None,
    layout: Layout | None = None,
) -> list[Subject]:
    """A checkpoint in every manner in which it can be asked, the preferred one first.

    Args:
      name: as it is shown.
      model: the checkpoint.
      folder: where answers are kept.
      manner, length: see `asking.manners`.
      layout: devices over which batches are split.
    """
    return [
        Subject(name, model, how, Cache(folder / f"{fingerprint(model, how)}.jsonl"), layout)
        for how in prompting.prompt_formats(model, manner, length)
    ]


def untrained(subject: Subject, folder: Path | None) -> Subject:
    """The same model before training, with seed 0; without a folder, its answers are kept in memory alone."""
    made, layout = subject.model.config, subject.layout
    shardings = None if layout is None else sharding.parameter_shardings(layout, models.axes(made))
    params = jax.jit(models.init, static_argnums=0, out_shardings=shardings)(made, jax.random.key(0))
    model = Untrained(made, params, subject.model.tokenizer)
    cache = Cache(folder and folder / f"{fingerprint(model, subject.manner)}.jsonl")
    return Subject("untrained", model, subject.manner, cache, layout)


def ask(
    subject: Subject,
    questions: TaskDataset,
    null: Callable[[], list[Outcome] | None] | None,
    progress: Progress = lambda share, of: None,
) -> tuple[Result, list[Outcome] | None]:
    """A checkpoint on a task, beside the outcomes of the model before training (`null`), which are needed only if the
    checkpoint has an answer; else the second is None."""
    try:
        outcomes = answer(subject, questions, progress)
    except InputError as error:
        return not_applicable(subject, questions, str(error)), None
    if outcomes is None:
        return not_applicable(subject, questions, "the model was not trained to do this"), None
    before = null and null()
    return measure(subject, questions, outcomes, {"untrained model": before} if before else {}), outcomes


def answer(
    subject: Subject, questions: TaskDataset, progress: Progress = lambda share, of: None
) -> list[Outcome] | None:
    """The outcomes of a task's items, or None if the model has no answer to them.

    Raises:
      InputError: if a text to be scored is longer than the model, or cannot be encoded.
    """
    task = questions.task
    if not all(subject.manner.can(request) for item in questions.items for request in _requests(item)):
        return None
    if task.kind == "generate":
        return _written(subject, questions, progress)
    forbidden = _stop_tokens(subject) if "greedy_without_stop_words" in task.metrics else ()
    wanted = [request for item in questions.items for request in (*item.options, *item.neutral)]
    known = _scores(subject, wanted, forbidden, lambda share: progress(share, f"{task.name}, {subject.name}"))
    return [
        Outcome(item, tuple(known[one] for one in item.options), tuple(known[one] for one in item.neutral))
        for item in questions.items
    ]


def _requests(item: Item) -> tuple[Any, ...]:
    return (*item.options, *item.neutral) if item.generation is None else (item.generation,)


def _scores(
    subject: Subject, wanted: Sequence[Scorable], forbidden: Sequence[int], progress: Callable[[float], None]
) -> dict[Scorable, Score]:
    """Of each request, asked only if it is not in the cache."""
    distinct = list(dict.fromkeys(wanted))
    new = [request for request in distinct if subject.cache.get(request, forbidden) is None]
    for done in scoring.score(subject.model, subject.manner, new, forbidden, subject.layout):
        subject.cache.put([(new[number], one) for number, one in done.scores if one is not None], forbidden)
        progress(done.share)
    answers = ((request, subject.cache.get(request, forbidden)) for request in distinct)
    return {request: one for request, one in answers if isinstance(one, Score)}


def _written(subject: Subject, questions: TaskDataset, progress: Progress) -> list[Outcome]:
    """What the model writes for each item, and how probable that is."""
    wanted = [item.generation for item in questions.items if item.generation is not None]
    new = [request for request in dict.fromkeys(wanted) if subject.cache.get(request) is None]
    for done in batch_generation.write(subject.model, subject.manner, new):
        subject.cache.put((new[number], text) for number, text in done.texts)
        progress(done.share, f"{questions.task.name}, {subject.name}")
    outputs = [str(subject.cache.get(request)) for request in wanted]
    asked = [Continuation(request.context, text) for request, text in zip(wanted, outputs, strict=True)]
    known = _scores(subject, [one for one in asked if one.text.strip()], (), lambda share: None)
    return [
        Outcome(item, (known[one],) if one in known else (), output=_compared(text, questions.task.sentences))
        for item, one, text in zip(questions.items, asked, outputs, strict=True)
    ]


def _compared(output: str, sentences: int | None) -> str:
    parts = re.split(r"(?<=[.!?])\s+", output.strip())
    return " ".join(parts[:sentences])


def _stop_tokens(subject: Subject) -> tuple[int, ...]:
    """Tokens that are a stop word by themselves."""
    pieces = subject.model.tokenizer.pieces(range(subject.model.tokenizer.size))
    return tuple(number for number, piece in enumerate(pieces) if piece.strip().lower() in STOP_WORDS)


def measure(
    subject: Subject, questions: TaskDataset, outcomes: Sequence[Outcome], others: Mapping[str, Sequence[Outcome]]
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
    blind = baselines.without_question(outcomes) if metric.credit else {}
    nulls = {**blind, **{other: metrics.sums(name, theirs) for other, theirs in others.items()}}
    chance = {"chance": metrics.sums(name, baselines.equal_options(outcomes))} if metric.chance else {}
    values = {other: one.value for other, one in (chance | nulls).items()}
    estimate = statistics.estimate(sums)
    if not metric.credit:
        return Measured(name, metric.better, estimate, values, None, _against(sums, chance | nulls, metric.better))
    normalised = statistics.chance_normalised(sums.value, values["chance"])
    verdict = statistics.verdict(sums, values["chance"], nulls)
    return Measured(name, metric.better, estimate, values, normalised, verdict)


def _against(sums: Sums, others: Mapping[str, Sums], better: str) -> str:
    """Where chance is no null: the score against the best of the others, on the same items."""
    sign = 1 if better == "higher" else -1
    name, other = max(others.items(), key=lambda pair: sign * pair[1].value)
    gain = statistics.difference(sums, other)
    low, high = (gain.low, gain.high) if sign > 0 else (-gain.high, -gain.low)
    if math.isnan(low) or low <= 0 <= high:
        return f"not distinguishable from {name}"
    return f"better than {name}" if low > 0 else f"worse than {name}"


def not_applicable(subject: Subject, questions: TaskDataset, note: str) -> Result:
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
        if outcome.item.generation is None
        else prompting.begin(subject.manner, outcome.item.generation)[1] > 0
        for outcome in outcomes
    )
