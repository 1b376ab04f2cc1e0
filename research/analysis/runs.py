"""Run folders as data, complete or not: what was run, what it recorded, and what it came to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from research import config
from research.config import Experiment, validation
from research.data.json_forms import read_json
from research.errors import InputError
from research.evaluation import result_files
from research.models import adapters
from research.runs import forms, records, run_folder
from research.training import flops


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    name: str  # as it is shown
    experiment: Experiment  # resolved
    facts: dict[str, Any]  # versions, commit and hardware
    records: list[dict[str, Any]]  # of metrics.jsonl, those that are not damaged
    result: dict[str, Any] | None  # None: the run is not complete
    evaluations: list[dict[str, Any]]  # of the command `evaluate`

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind, one a step, the latest of it, in the order of steps."""
        latest = {record["step"]: record for record in self.records if record["kind"] == kind}
        return [latest[step] for step in sorted(latest)]

    @property
    def step(self) -> int:
        """The last one of which there is a record."""
        return max((record["step"] for record in self.records), default=0)

    @property
    def tokens_per_step(self) -> int:
        return self.experiment.data.batch * self.experiment.data.length

    @property
    def flops_per_step(self) -> float:
        """Of a train step, counted (see `training.flops`)."""
        return self.experiment.data.batch * flops.train_flops(self.experiment.model, self.experiment.data)

    @cached_property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in adapters.shapes(self.experiment.model).values())


def read(folders: Sequence[Path]) -> list[Run]:
    """The runs, each named by its folder, or by its whole path where two folders have one name.

    Raises:
      InputError: if one is not a run folder.
    """
    names = [folder.resolve().name for folder in folders]
    return [
        _read(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def _read(folder: Path, name: str) -> Run:
    path = folder / "experiment.json"
    if not path.exists():
        raise InputError(f"{folder} is not a run folder: it has no experiment.json")
    experiment = config.load(path)
    try:
        validation.validate(experiment)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not experiment.model.vocabulary:
        raise InputError(f"{path} is not that of a run: model.vocabulary is 0")
    experiment = replace(experiment, model=config.resolve(experiment.model, 0, experiment.data.length))
    result = run_folder.read_result(folder)
    absent = {objective.name for objective in experiment.objectives} - set((result or {}).get("objectives", ()))
    if result is not None and absent:
        raise InputError(f"{folder / 'result.json'} has no result of {', '.join(sorted(absent))}")
    facts = read_json(path, forms.FACTS)
    for key in ("format", "experiment", "run"):
        facts.pop(key, None)
    return Run(
        name=name,
        experiment=experiment,
        facts=facts,
        records=records.read(folder / records.FILE),
        result=result,
        evaluations=result_files.read(folder / "evaluation" / "results.json", forms.EVALUATION),
    )
