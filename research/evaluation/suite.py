"""A checkpoint on a task: ask, measure, compare with what needs no understanding."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research import models, sharding
from research.errors import InputError
from research.evaluation import baselines, metrics, statistics
from research.evaluation.answer_cache import Cache, fingerprint
from research.evaluation.items import Item, Outcome
from research.evaluation.statistics import Estimate, Sums
from research.evaluation.tasks import FOLDER, TaskDataset
from research.inference.language_model import LanguageModel
from research.inference.prompting import PromptFormat, continuation_prompt
from research.inference.requests import Continuation, Scorable, Score

STOP_WORDS = frozenset((FOLDER / "stop_words.txt").read_text(encoding="utf-8").split())
Progress = Callable[[float, str], None]  # the share that is done, of what


@dataclass(frozen=True)
class EvaluatedModel:
    """A checkpoint, asked with one prompt format."""

    name: str  # as it is shown
    model: LanguageModel
    prompt_format: PromptFormat
    cache: Cache


@dataclass(frozen=True)
class Measured:
    """A metric with all that it takes to assess it."""

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
    prompt_format: str  # the objective as which it was asked
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


def evaluated_models(
    name: str, model: LanguageModel, folder: Path | None, objective: str | None = None, length: int | None = None
) -> list[EvaluatedModel]:
    """A checkpoint in every prompt format in which it can be asked, the preferred one first.

    Args:
      name: as it is shown.
      model: the checkpoint.
      folder: where answers are kept; None: in memory alone.
      objective, length: see `LanguageModel.prompt_formats`.
    """
    return [_evaluated(name, model, how, folder) for how in model.prompt_formats(objective, length)]


def untrained(evaluated: EvaluatedModel, folder: Path | None) -> EvaluatedModel:
    """The same model before training, with seed 0, in the same dtype and on the same devices; without a folder, its
    answers are kept in memory alone."""
    made, layout = evaluated.model.config, evaluated.model.layout
    shardings = None if layout is None else sharding.parameter_shardings(layout, models.axes(made))
    dtype = evaluated.model.params["embedding"].dtype

    def initial(key: jax.Array) -> models.Params:
        params = models.init(made, key)
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf, params)

    params = jax.jit(initial, out_shardings=shardings)(jax.random.key(0))
    return _evaluated("untrained", replace(evaluated.model, params=params), evaluated.prompt_format, folder)


def _evaluated(name: str, model: LanguageModel, prompt_format: PromptFormat, folder: Path | None) -> EvaluatedModel:
    path = None if folder is None else folder / f"{fingerprint(model, prompt_format)}.jsonl"
    return EvaluatedModel(name, model, prompt_format, Cache(path))


def ask(
    evaluated: EvaluatedModel,
    questions: TaskDataset,
    baseline: Callable[[], list[Outcome] | None] | None,
    progress: Progress = lambda share, of: None,
) -> tuple[Result, list[Outcome] | None]:
    """A checkpoint on a task, beside the outcomes of the model before training (`baseline`), which are needed only if
    the checkpoint has an answer; else the second is None."""
    try:
        outcomes = answer(evaluated, questions, progress)
    except InputError as error:
        return not_applicable(evaluated, questions, str(error)), None
    if outcomes is None:
        return not_applicable(evaluated, questions, "the model was not trained to do this"), None
    before = baseline and baseline()
    return measure(evaluated, questions, outcomes, {"untrained model": before} if before else {}), outcomes


def answer(
    evaluated: EvaluatedModel, questions: TaskDataset, progress: Progress = lambda share, of: None
) -> list[Outcome] | None:
    """The outcomes of a task's items, or None if the model has no answer to them.

    Raises:
      InputError: if a text to be scored is longer than the model, or cannot be encoded.
    """
    task = questions.task
    if not all(evaluated.prompt_format.can(request) for item in questions.items for request in _requests(item)):
        return None
    if task.kind == "generate":
        return _written(evaluated, questions, progress)
    forbidden = _stop_tokens(evaluated) if "greedy_without_stop_words" in task.metrics else ()
    wanted = [request for item in questions.items for request in (*item.options, *item.neutral)]
    known = _scores(evaluated, wanted, forbidden, lambda share: progress(share, f"{task.name}, {evaluated.name}"))
    return [
        Outcome(item, tuple(known[one] for one in item.options), tuple(known[one] for one in item.neutral))
        for item in questions.items
    ]


def _requests(item: Item) -> tuple[Any, ...]:
    return (*item.options, *item.neutral) if item.generation is None else (item.generation,)


def _scores(
    evaluated: EvaluatedModel, wanted: Sequence[Scorable], forbidden: Sequence[int], progress: Callable[[float], None]
) -> dict[Scorable, Score]:
    """Of each request, asked only if it is not in the cache."""
    distinct = list(dict.fromkeys(wanted))
    new = [request for request in distinct if evaluated.cache.get(request, forbidden) is None]
    for done in evaluated.model.score_requests(evaluated.prompt_format, new, forbidden):
        evaluated.cache.put([(new[number], one) for number, one in done.scores if one is not None], forbidden)
        progress(done.share)
    answers = ((request, evaluated.cache.get(request, forbidden)) for request in distinct)
    return {request: one for request, one in answers if isinstance(one, Score)}


def _written(evaluated: EvaluatedModel, questions: TaskDataset, progress: Progress) -> list[Outcome]:
    """What the model writes for each item, and how probable that is."""
    wanted = [item.generation for item in questions.items if item.generation is not None]
    new = [request for request in dict.fromkeys(wanted) if evaluated.cache.get(request) is None]
    for done in evaluated.model.generate_requests(evaluated.prompt_format, new):
        evaluated.cache.put((new[number], text) for number, text in done.texts)
        progress(done.share, f"{questions.task.name}, {evaluated.name}")
    outputs = [str(evaluated.cache.get(request)) for request in wanted]
    asked = [Continuation(request.context, text) for request, text in zip(wanted, outputs, strict=True)]
    known = _scores(evaluated, [one for one in asked if one.text.strip()], (), lambda share: None)
    return [
        Outcome(item, (known[one],) if one in known else (), output=_compared(text, questions.task.sentences))
        for item, one, text in zip(questions.items, asked, outputs, strict=True)
    ]


def _compared(output: str, sentences: int | None) -> str:
    parts = re.split(r"(?<=[.!?])\s+", output.strip())
    return " ".join(parts[:sentences])


def _stop_tokens(evaluated: EvaluatedModel) -> tuple[int, ...]:
    """Tokens that are a stop word by themselves."""
    pieces = evaluated.model.tokenizer.pieces(range(evaluated.model.tokenizer.size))
    return tuple(number for number, piece in enumerate(pieces) if piece.strip().lower() in STOP_WORDS)


def measure(
    evaluated: EvaluatedModel,
    questions: TaskDataset,
    outcomes: Sequence[Outcome],
    others: Mapping[str, Sequence[Outcome]],
) -> Result:
    """The task's metrics on the outcomes, beside `others` (an untrained model) and what needs no model."""
    task = questions.task
    others = dict(others)
    if task.kind == "generate":
        others["most frequent answer"] = baselines.most_frequent(outcomes)
    else:
        others["uniform bytes"] = baselines.uniform_bytes(outcomes)
    measured = tuple(_measure(name, outcomes, others) for name in task.metrics)
    return replace(
        not_applicable(evaluated, questions, ""), measured=measured, truncated=_truncated(evaluated, outcomes)
    )


def _measure(name: str, outcomes: Sequence[Outcome], others: Mapping[str, Sequence[Outcome]]) -> Measured:
    metric, sums = metrics.METRICS[name], metrics.sums(name, outcomes)
    blind = baselines.without_question(outcomes) if metric.credit else {}
    known = {**blind, **{other: metrics.sums(name, theirs) for other, theirs in others.items()}}
    chance = {"chance": metrics.sums(name, baselines.equal_options(outcomes))} if metric.chance else {}
    values = {other: one.value for other, one in (chance | known).items()}
    estimate = statistics.estimate(sums)
    if not metric.credit:
        return Measured(name, metric.better, estimate, values, None, _against(sums, chance | known, metric.better))
    normalised = statistics.chance_normalised(sums.value, values["chance"])
    verdict = statistics.verdict(sums, values["chance"], known)
    return Measured(name, metric.better, estimate, values, normalised, verdict)


def _against(sums: Sums, others: Mapping[str, Sums], better: str) -> str:
    """Where chance is no baseline: the score against the best of the others, on the same items."""
    if math.isnan(sums.value):
        return statistics.NO_VERDICT
    sign = 1 if better == "higher" else -1
    name, other = max(others.items(), key=lambda pair: sign * pair[1].value)
    gain = statistics.difference(sums, other)
    low, high = (gain.low, gain.high) if sign > 0 else (-gain.high, -gain.low)
    if math.isnan(low) or low <= 0 <= high:
        return f"not distinguishable from {name}"
    return f"better than {name}" if low > 0 else f"worse than {name}"


def not_applicable(evaluated: EvaluatedModel, questions: TaskDataset, note: str) -> Result:
    """A result without a score."""
    return Result(
        evaluated.name,
        questions.task.name,
        evaluated.prompt_format.objective.name,
        evaluated.prompt_format.kind,
        questions.shots,
        len(questions.items),
        len({item.document for item in questions.items}),
        0,
        questions.source,
        questions.digest,
        (),
        note,
    )


def _truncated(evaluated: EvaluatedModel, outcomes: Sequence[Outcome]) -> int:
    return sum(
        any(score.truncated for score in outcome.scores)
        if (wanted := outcome.item.generation) is None
        else continuation_prompt(evaluated.prompt_format, wanted.context, wanted.sampling.tokens).truncated > 0
        for outcome in outcomes
    )
