"""Probes: what a model says at a few chosen places, and how that changes with training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from research import config
from research.inference.language_model import LanguageModel
from research.runs.evaluators import Moment
from research.runs.prepared import Prepared


@dataclass(frozen=True)
class Probed:
    """What one model said."""

    probabilities: list[float]  # of the continuations
    losses: list[list[float]]  # of the tokens of each text, nats
    targets: list[list[str]]  # those tokens
    following: list[np.ndarray]  # after each unrelated prompt: the log-probability of every next token


def probe(model: LanguageModel, probes: config.Probes) -> Probed:
    """Asks a model everything. Raises InputError if it was not trained to continue texts."""
    tables = [model.token_losses(text) for text in probes.texts]
    return Probed(
        probabilities=[float(np.exp(model.score(*pair).total)) for pair in probes.continuations],
        losses=[table["loss"] for table in tables],
        targets=[table["target"] for table in tables],
        following=_following(model, probes.unrelated) if probes.unrelated else [],
    )


def _following(model: LanguageModel, prompts: Sequence[str]) -> list[np.ndarray]:
    last = -1 if model.tokenizer.eos is None else -2  # a document ends with its eos
    scores = (each[last] for each in model.logits(prompts))
    return [each - np.logaddexp.reduce(each) for each in scores]


def said(probes: config.Probes, probed: Probed) -> str:
    """One line: the probabilities of the continuations, and the loss of every token of the texts before its target."""
    parts = [
        f"P({continuation!r} | {context!r}) = {_shown(p)}"
        for (context, continuation), p in zip(probes.continuations, probed.probabilities, strict=True)
    ]
    for losses, targets in zip(probed.losses, probed.targets, strict=True):
        parts.append("loss " + " ".join(f"{loss:.3f} {t!r}" for loss, t in zip(losses, targets, strict=True)))
    return "; ".join(parts)


def _shown(probability: float) -> str:
    return f"{probability:.4f}" if probability > 1e-3 else f"{probability:.1e}"


def forgotten(before: Probed, after: Probed) -> tuple[float, float]:
    """Over the unrelated prompts: the mean divergence KL(before || after) of the next token in nats, and the share of
    prompts after which the most probable token is another one."""
    divergences = [float(np.sum(np.exp(p) * (p - q))) for p, q in zip(before.following, after.following, strict=True)]
    changed = [p.argmax() != q.argmax() for p, q in zip(before.following, after.following, strict=True)]
    return float(np.mean(divergences)), float(np.mean(changed))


def result(probes: config.Probes, steps: dict[int, Probed]) -> dict[str, Any]:
    """What `result.json` says of the probes, for each step at which the model was asked."""
    first = steps[min(steps)]
    out: dict[str, Any] = {"steps": list(steps)}
    out["continuations"] = [
        {"context": context, "continuation": said, "probabilities": [p.probabilities[n] for p in steps.values()]}
        for n, (context, said) in enumerate(probes.continuations)
    ]
    out["texts"] = [
        {"text": text, "targets": first.targets[n], "losses": [p.losses[n] for p in steps.values()]}
        for n, text in enumerate(probes.texts)
    ]
    if probes.unrelated:
        pairs = [forgotten(first, probed) for probed in steps.values()]
        out["unrelated"] = {"divergence": [d for d, _ in pairs], "changed": [c for _, c in pairs]}
    return out


def show(result: dict[str, Any]) -> Group:
    """The result as a table: one column for each step at which the model was asked."""
    table = Table("probe", title="probes", title_justify="left")
    for step in result["steps"]:
        table.add_column(f"step {step:,}", justify="right")
    for each in result["continuations"]:
        name = f"P({each['continuation']!r} | {each['context']!r})"
        table.add_row(Text(name), *map(_shown, each["probabilities"]))
    for each in result["texts"]:
        table.add_section()
        for place, target in enumerate(each["targets"]):
            table.add_row(
                Text(f"loss of {target!r} in {each['text']!r}"), *(f"{losses[place]:.3f}" for losses in each["losses"])
            )
    if "unrelated" in result:
        table.add_section()
        table.add_row("unrelated prompts: divergence, nats", *(f"{d:.3f}" for d in result["unrelated"]["divergence"]))
        table.add_row("unrelated prompts: another first choice", *(f"{c:.0%}" for c in result["unrelated"]["changed"]))
    return Group(table)


class Probes:
    """Asks before training too, for the comparison."""

    kind = "probes"

    def __init__(self, run: Prepared, before: Moment, say: Callable[[str], None]) -> None:
        evaluation = run.experiment.evaluation
        self.probes, self.say = evaluation.probes, say
        self.every = evaluation.every if evaluation.probes_every is None else evaluation.probes_every
        self.steps: dict[int, Probed] = {}
        self.evaluate(before)

    def evaluate(self, moment: Moment) -> dict[str, Any]:
        probed = probe(moment.model, self.probes)
        self.steps[moment.step] = probed
        self.say(f"step {moment.step:,}: {said(self.probes, probed)}")
        return {}  # they are in the result, step by step

    def result(self) -> dict[str, Any]:
        """What `result.json` says of them."""
        return result(self.probes, self.steps)

    def table(self) -> RenderableType | None:
        return show(self.result())
