"""The loss, token by token."""

from collections.abc import Mapping

import numpy as np

from research.inference.language_model import LanguageModel
from research.inference.table import Table


def softmax(lm: LanguageModel, text: str, place: int, count: int = 8, objective: str | None = None) -> Table:
    """From the logits at one place of a text to probabilities: the most probable tokens, and the sum over all others.

    Columns "token", "logit", "exp(logit - largest)", "probability" and "-log(probability)".
    """
    logits = lm.logits([text], objective)[0][place]
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    best = np.argsort(-logits)[:count]
    rest = np.setdiff1d(np.arange(len(logits)), best)
    return Table(
        {
            "token": [*lm.tokenizer.pieces(best), f"({len(rest):,} others)"],
            "logit": [*logits[best].tolist(), float("nan")],
            "exp(logit - largest)": [*exponentials[best].tolist(), float(exponentials[rest].sum())],
            "probability": [*probabilities[best].tolist(), float(probabilities[rest].sum())],
            "-log(probability)": [*(-np.log(probabilities[best])).tolist(), float("nan")],
        }
    )


def compared(models: Mapping[str, LanguageModel], text: str, objective: str | None = None) -> Table:
    """The loss of every token of a text under several models with one tokenizer: "target", and a column for each."""
    tables = {name: lm.token_losses(text, objective) for name, lm in models.items()}
    first = next(iter(tables.values()))
    return Table({"target": first["target"], **{name: table["loss"] for name, table in tables.items()}})


def continuations(models: Mapping[str, LanguageModel], context: str, said: tuple[str, ...]) -> Table:
    """How probable each continuation is, to each model: "continuation", and a column for each."""
    columns = {name: [float(np.exp(lm.score(context, one).total)) for one in said] for name, lm in models.items()}
    return Table({"continuation": list(said), **columns})
