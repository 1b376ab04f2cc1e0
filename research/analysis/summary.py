"""What a page says of runs in words: what was run, what was set, and samples."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from research import config
from research.analysis.runs import Run
from research.config import Experiment, storage

SAMPLES = 24  # steps of which samples are shown, at most
Row = tuple[str, list[str]]  # a heading, and the value of each run


def overview(runs: Sequence[Run]) -> list[Row]:
    """What was run and what it came to; what no run can tell is left out."""
    objectives = dict.fromkeys(objective.name for run in runs for objective in run.experiment.objectives)
    rows: list[Row] = [
        ("state", [_state(run) for run in runs]),
        *((f"held-out loss, {name}", [_loss(run, name) for run in runs]) for name in objectives),
        ("speed", [_speed(run) for run in runs]),
        ("time and memory", [_cost(run) for run in runs]),
        ("model", [_model(run) for run in runs]),
        ("data", [_data(run) for run in runs]),
        ("hardware", [_hardware(run) for run in runs]),
        ("code", [f"commit {run.facts['commit'][:12]}" if run.facts["commit"] else "" for run in runs]),
        ("versions", [", ".join(f"{name} {v}" for name, v in run.facts["versions"].items()) for run in runs]),
    ]
    return [(heading, cells) for heading, cells in rows if any(cells)]


def _state(run: Run) -> str:
    steps = run.experiment.schedule.steps
    tokens = f"{run.step * run.tokens_per_step:,} tokens"
    skipped = sum(record.get("skipped", 0) for record in run.of_kind("train"))
    tokens += f", {skipped:,} bad steps skipped" if skipped else ""
    done = run.result is not None and run.step >= steps
    return f"complete: {steps:,} steps, {tokens}" if done else f"at step {run.step:,} of {steps:,}, {tokens}"


def _loss(run: Run, objective: str) -> str:
    shown = _last(run, objective)
    if shown and run.result is not None:
        losses = run.result["objectives"][objective]
        shown += f" (unigram {_number(losses['unigram'])}, uniform {_number(losses['uniform'])})"
    return shown


def _number(loss: float | None) -> str:
    return "no number" if loss is None or not math.isfinite(loss) else f"{loss:.3f}"


def _speed(run: Run) -> str:
    timed = [record for record in run.of_kind("train") if record["tokens_per_second"] > 0]
    if not timed:
        return ""
    speed, mfu = (median(record[field] for record in timed) for field in ("tokens_per_second", "mfu"))
    return f"{speed:,.0f} tokens/s, MFU {mfu:.1%} (medians)"


def _cost(run: Run) -> str:
    if run.result is None:
        return ""
    return f"{run.result['seconds']:,.0f} s, {run.result['peak_memory_bytes'] / 2**30:.1f} GiB"


def _model(run: Run) -> str:
    model = run.experiment.model
    kind = f"encoder of {model.encoder_depth} layers, decoder of {model.depth}"
    kind = kind if model.encoder_depth else f"{model.depth} layers"
    return f"{run.parameters:,} parameters: {kind}, width {model.width}, {model.attention.heads} heads"


def _data(run: Run) -> str:
    data = run.experiment.data
    return f"{data.source}, tokenizer {data.tokenizer}; batches of {data.batch} rows of {data.length} tokens"


def _hardware(run: Run) -> str:
    hardware = run.facts["hardware"]
    return f"{hardware['devices']} × {hardware['kind']}, processes: {hardware['processes']}"


def settings(runs: Sequence[Run]) -> list[Row]:
    """The fields in which the runs differ; of a single run, those that are not at their defaults."""
    trees = [_leaves(config.to_dict(run.experiment)) for run in runs]
    compared = trees if len(runs) > 1 else [*trees, _leaves(config.to_dict(Experiment()))]
    paths = dict.fromkeys(path for tree in trees for path in tree)
    differing = [path for path in paths if len({str(tree.get(path)) for tree in compared}) > 1]
    return [(path, [str(tree.get(path, "")) for tree in trees]) for path in differing]


def seeds(runs: Sequence[Run]) -> list[int]:
    """Of each run, which of all different experiments it is: runs that differ in their seed alone have one number."""
    trees = [str(_leaves(config.to_dict(replace(run.experiment, seed=0)))) for run in runs]
    return [trees.index(tree) for tree in trees]


def comparison(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each of several runs: the settings that differ first, then what came of them."""
    objectives = dict.fromkeys(objective.name for run in runs for objective in run.experiment.objectives)
    columns: list[Row] = [
        *settings(runs),
        ("step", [f"{run.step:,}" for run in runs]),
        *((f"{name}, held-out", [_last(run, name) for run in runs]) for name in objectives),
        ("tokens/s", [_speed(run).partition(" ")[0] for run in runs]),
    ]
    shown = [(heading, cells) for heading, cells in columns if any(cells)]
    return [heading for heading, _ in shown], [list(row) for row in zip(*(cells for _, cells in shown), strict=True)]


def _last(run: Run, objective: str) -> str:
    """Its newest held-out loss."""
    held_out = [record["losses"][objective] for record in run.of_kind("held_out") if objective in record["losses"]]
    return _number(held_out[-1]) if held_out else ""


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of an experiment by their paths; an objective is one, with what is not at its default."""
    if isinstance(tree, list | tuple) and tree and isinstance(tree[0], dict):
        return {f"{path}.{number}": _objective(each) for number, each in enumerate(tree)}
    if not isinstance(tree, dict):
        return {path: tree}
    parts = (_leaves(value, f"{path}.{name}".strip(".")) for name, value in tree.items())
    return {path: value for part in parts for path, value in part.items()}


def _objective(fields: dict[str, Any]) -> str:
    kind = storage.objective_class(fields[storage.TAG])
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    changed = [f"{name} {value}" for name, value in fields.items() if defaults.get(name, value) != value]
    return ", ".join([kind.__name__, *changed])


def samples(run: Run) -> list[dict[str, Any]]:
    """The records of samples, the latest first, thinned out evenly to a bounded number."""
    records = run.of_kind("samples")[::-1]
    return records[:: -(-len(records) // SAMPLES)] if records else []


def said(run: Run) -> dict[str, str]:
    """The last sample of each objective as text, in brackets what the model made."""
    last = run.of_kind("samples")[-1:]
    pieces = {name: parts for record in last for name, parts in record["samples"].items()}
    return {
        name: "".join(f"[{text}]" if style.startswith("bold") else text for text, style in parts)
        for name, parts in pieces.items()
    }
