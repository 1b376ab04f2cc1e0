"""Tasks as data: a YAML file says where the records are, how they become items, and which metrics are computed.

Shipped definitions are in `tasks/`; a path to a YAML file is a task as well. Templates are Jinja's, over the fields of
a record. The kinds:

  choice    `options` lists answers, of which number `gold` is right. `context` and `continuation` see one as `option`;
            with `right`, the continuation stands between the two (an infilling task).
  cloze     one continuation, without alternatives
  text      how probable is `text`? `detokeniser` undoes an artificial tokenisation
  generate  a continuation is written, and compared with `references`
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cattrs
import yaml

from research.data.limits import limited
from research.errors import InputError
from research.evaluation import datasets, detokenisers
from research.evaluation.datasets import RecordSource, TaskRecord
from research.evaluation.generated_tasks import GENERATORS, Draw
from research.evaluation.items import Item
from research.evaluation.templates import Expression
from research.inference.generation import Sampling
from research.inference.requests import Continuation, Generation, Infill, Rolling, Scorable

FOLDER = Path(__file__).parent / "tasks"
SECONDS, MEMORY = 10.0, 1 << 30  # that reading a task file may take
MOST = {"shots": 10_000, "tokens": 1_000_000, "top_k": 10_000_000, "sentences": 1_000_000}  # of a task's numbers
ALLOWED = {
    "choice": (
        "accuracy",
        "accuracy_by_characters",
        "accuracy_by_bytes",
        "accuracy_pmi",
        "brier",
        "gold_bits_per_byte",
        "greedy",
    ),
    "cloze": ("greedy", "greedy_without_stop_words", "perplexity", "gold_bits_per_byte"),
    "text": ("bits_per_byte", "word_perplexity"),
    "generate": ("exact_match", "f1", "edit_distance", "rouge1", "rouge2", "rougeL", "bleu", "chrf"),
}


@dataclass(frozen=True)
class Task:
    """The fields of a task file."""

    name: str
    about: str  # what is asked, and who made it
    licence: str  # of the data
    kind: Literal["choice", "cloze", "text", "generate"]
    sources: tuple[RecordSource, ...]  # the first that is here is used
    metrics: tuple[str, ...]  # the first is the one that is quoted
    context: str = ""  # template
    continuation: str = ""  # template
    right: str | None = None  # template: what follows the continuation
    neutral: str | None = None  # template: a context without the question, for accuracy_pmi
    options: str | None = None  # expression
    gold: str = "gold"  # expression
    text: str = "text"  # expression
    detokeniser: str | None = None  # a function of `detokenisers.py`
    references: str | None = None  # expression: a list of right outputs
    document: str | None = None  # expression: records of the same document are not independent
    preamble: str = ""  # text before everything
    separator: str = "\n\n"  # between worked examples
    shots: int = 0  # worked examples before each question
    shot_sources: tuple[RecordSource, ...] = ()  # where they are drawn from; none: the other records
    stop: tuple[str, ...] = ("\n",)  # strings that end a generation
    tokens: int = 64  # the longest generation
    top_k: int = 1  # generation samples from the top_k most probable tokens; 1: greedy
    sentences: int | None = None  # how much of a generation is compared

    @property
    def digest(self) -> str:
        """Changes with everything that changes questions."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def names() -> list[str]:
    """The shipped tasks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_task(name: str) -> Task:
    """A shipped task by its name, or one by the path of its file.

    Raises:
      InputError: if there is none, or if the file has a wrong or missing field.
    """
    path = Path(name)
    if not name.endswith((".yaml", ".yml")):
        path = FOLDER / f"{name}.yaml"
        if name not in names():
            raise InputError(f"no task {name!r}; there are {', '.join(names())}, or give the path of a YAML file")
    try:
        # a few anchors and aliases can stand for a tree without end
        return limited(SECONDS, MEMORY, lambda: _parsed(path))
    except (OSError, MemoryError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _parsed(path: Path) -> Task:
    try:
        tree = yaml.safe_load(path.read_bytes())  # YAML itself names its encoding
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    try:
        task = _CONVERTER.structure(tree, Task)
    except (cattrs.BaseValidationError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise InputError(f"{path} is not a task: {_complaints(error)}") from error
    _check(task, path)
    return task


def _complaints(error: BaseException) -> str:
    try:
        return "; ".join(cattrs.transform_error(error, path="task"))
    except TypeError:  # of cattrs itself
        return "a name of a field is no text"


@dataclass(frozen=True)
class TaskDataset:
    """A task with its items."""

    task: Task
    shots: int
    items: tuple[Item, ...]
    source: str  # where the records came from
    digest: str  # of the records' files


def open_task(task: Task, data: Sequence[Path], shots: int | None = None, limit: int | None = None) -> TaskDataset:
    """Reads the records of a task and makes its items, in their order.

    Args:
      task: its definition.
      data: folders where files are looked for.
      shots: worked examples before each question; None: the number in the task file.
      limit: how many of the first records are used; None: all.

    Raises:
      InputError: if a number is out of range, if no source is here or it is corrupt, if a template names a field that a
        record lacks, or if other records are too few for the worked examples.
    """
    shots = task.shots if shots is None else shots
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} is not at least 1; leave it out for all questions")
    if not 0 <= shots <= MOST["shots"]:
        raise InputError(f"shots: {shots} is not from 0 to {MOST['shots']:,}")
    loaded = datasets.load_records(task.name, task.sources, data)
    own = not task.shot_sources or not shots
    pool = loaded.records if own else datasets.load_records(task.name, task.shot_sources, data).records
    writer = _Writer(task)
    items = []
    for number, record in enumerate(loaded.records[:limit]):
        examples = _draw(task, writer, pool, shots, number, writer.document(record, number) if own else None)
        prompt = task.preamble + "".join(writer.example(example) + task.separator for example in examples)
        items.append(writer.item(record, number, prompt))
    return TaskDataset(task, shots, tuple(items), loaded.source.name, loaded.digest)


def _draw(
    task: Task, writer: "_Writer", pool: Sequence[TaskRecord], shots: int, number: int, document: str | None
) -> list[TaskRecord]:
    """Different records of other documents than `document`, the same ones for every model."""
    draw, chosen = Draw(task.name, number), dict[int, TaskRecord]()
    for _ in range(1000 * shots):
        if len(chosen) == shots:
            break
        place = draw.below(len(pool))
        if document is None or writer.document(pool[place], place) != document:
            chosen[place] = pool[place]
    if len(chosen) < shots:
        raise InputError(f"task {task.name}: too few other records for {shots} worked examples; there are {len(pool)}")
    return list(chosen.values())


class _Writer:
    """The templates of a task, parsed once."""

    def __init__(self, task: Task) -> None:
        def optional(parse: Any, name: str) -> Expression | None:
            text = getattr(task, name)
            return None if text is None else parse(task.name, name, text)

        self.task = task
        self.context = Expression.template(task.name, "context", task.context)
        self.continuation = Expression.template(task.name, "continuation", task.continuation)
        self.right = optional(Expression.template, "right")
        self.neutral = optional(Expression.template, "neutral")
        self.options = optional(Expression.parse, "options")
        self.gold = Expression.parse(task.name, "gold", task.gold)
        self.text = Expression.parse(task.name, "text", task.text)
        self.references = optional(Expression.parse, "references")
        self.of_document = optional(Expression.parse, "document")

    def document(self, record: TaskRecord, number: int) -> str:
        """Which document a record is from; without an expression, each is its own."""
        return str(number) if self.of_document is None else str(self.of_document(record))

    def item(self, record: TaskRecord, number: int, prompt: str) -> Item:
        """The question of a record, after the worked examples."""
        task, document = self.task, self.document(record, number)
        match task.kind:
            case "choice":
                options, gold = self._choices(record)
                records = [{**record, "option": option} for option in options]
                neutral: tuple[Scorable, ...] = ()
                if self.neutral is not None:
                    neutral = tuple(Continuation(self.neutral(r), self.continuation(r)) for r in records)
                return Item(document, tuple(self._ask(r, prompt) for r in records), gold, neutral)
            case "cloze":
                return Item(document, (self._ask(record, prompt),))
            case "text":
                text = str(self.text(record))
                shown = detokenisers.detokenise(text, task.detokeniser) if task.detokeniser else text
                if not shown.strip():
                    raise InputError(f"task {task.name}: an empty text from a record with {', '.join(record)}")
                return Item(document, (Rolling(shown),), words=len(text.split()), bytes=len(text.encode()))
            case "generate":
                temperature = 0.0 if task.top_k == 1 else 1.0
                sampling = Sampling(task.tokens, temperature=temperature, top_k=task.top_k, stop=task.stop)
                generation = Generation(prompt + self.context(record), sampling)
                return Item(document, generation=generation, references=self._references(record))

    def example(self, record: TaskRecord) -> str:
        """A record with its right answer."""
        if self.task.kind == "choice":
            options, gold = self._choices(record)
            record = {**record, "option": options[gold]}
        elif self.task.kind == "generate":
            record = {**record, "answer": self._references(record)[0]}
        right = "" if self.right is None else self.right(record)
        return str(self.context(record) + self.continuation(record) + right)

    def _ask(self, record: TaskRecord, prompt: str) -> Scorable:
        context, text = prompt + self.context(record), self.continuation(record)
        if not text.strip():  # nothing whose probability could be divided by its length
            raise InputError(f"task {self.task.name}: an empty continuation from a record with {', '.join(record)}")
        return Continuation(context, text) if self.right is None else Infill(context, self.right(record), text)

    def _choices(self, record: TaskRecord) -> tuple[list[Any], int]:
        assert self.options is not None
        options, gold = self.options(record), self.gold(record)
        if not isinstance(options, list | tuple) or len(options) < 2:
            raise InputError(f"task {self.task.name}: options must be a list of two or more, not {options!r}")
        if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(options):
            raise InputError(
                f"task {self.task.name}: gold = {gold!r} is not the number of one of {len(options)} options"
            )
        return list(options), gold

    def _references(self, record: TaskRecord) -> tuple[str, ...]:
        assert self.references is not None
        references = self.references(record)
        return (references,) if isinstance(references, str) else tuple(map(str, references))


def _check(task: Task, path: Path) -> None:
    """Raises InputError, naming every field that does not fit the kind of the task."""
    kinds = {"options": "choice", "right": "choice", "neutral": "choice", "references": "generate"}
    needed = {
        "choice": ("continuation", "options"),
        "cloze": ("context", "continuation"),
        "generate": ("context", "references"),
    }
    wrong = [
        f"{name}: only a {kind} task has it"
        for name, kind in kinds.items()
        if getattr(task, name) is not None and task.kind != kind
    ]
    wrong += [f"{name}: a {task.kind} task needs it" for name in needed.get(task.kind, ()) if not getattr(task, name)]
    wrong += [
        f"metrics: {metric!r} is not one of a {task.kind} task: {', '.join(ALLOWED[task.kind])}"
        for metric in task.metrics
        if metric not in ALLOWED[task.kind]
    ]
    if not task.metrics or not task.sources:
        wrong.append("metrics and sources: at least one of each is needed")
    if ("accuracy_pmi" in task.metrics) != (task.neutral is not None):
        wrong.append("neutral: the context without the question is what accuracy_pmi needs")
    if task.detokeniser is not None and task.detokeniser not in detokenisers.STYLES:
        wrong.append(f"detokeniser: {task.detokeniser!r} is not one of {', '.join(detokenisers.STYLES)}")
    for field, most in MOST.items():
        number, least = getattr(task, field), int(field != "shots")
        if number is not None and not least <= number <= most:
            wrong.append(f"{field}: {number} is not between {least} and {most:,}")
    for source in (*task.sources, *task.shot_sources):
        if sum(place is not None for place in (source.file, source.tfds, source.hub, source.generate)) != 1:
            wrong.append("sources: each has exactly one of file, tfds, hub and generate")
        if source.generate is not None and source.generate not in GENERATORS:
            wrong.append(f"sources: {source.generate!r} is not one of {', '.join(GENERATORS)}")
    if wrong:
        raise InputError(f"{path} is not a usable task:\n  " + "\n  ".join(wrong))


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
# a single string is a list of one, not a list of its letters
_CONVERTER.register_structure_hook_func(
    lambda kind: kind == tuple[str, ...], lambda value, _: (value,) if isinstance(value, str) else tuple(value)
)
