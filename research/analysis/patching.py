"""Activation patching: which layer, head and token carries what decides an answer."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from research.errors import InputError
from research.inference import edits
from research.inference.inside import Measure
from research.inference.language_model import LanguageModel


def patch(
    lm: LanguageModel,
    text: str,
    other: str,
    measure: Measure,
    place: str = "residual",
    by: Sequence[str] = ("layer", "token"),
) -> np.ndarray:
    """What a measure makes of a text when one part of a place, by itself, is what it was in another text with as many
    tokens (Meng et al. 2022, section 2.1, call the other one clean; Zhang and Nanda 2024 compare the choices).

    Args:
      lm: the model.
      text: what is read.
      other: where the values are taken from.
      measure: see `analysis.measures`.
      place: the name of one place.
      by: its axes whose indices are patched one by one; all others are patched whole.

    Returns:
      The measure after each patch, `[by ...]`. Everything is computed in one call of `LanguageModel.sweep`.

    Raises:
      InputError: if the texts have different numbers of tokens, or the place does not have these axes.
    """
    (here,), (there,) = lm.examples(text), lm.examples(other)
    if len(here.tokens) != len(there.tokens):
        raise InputError(
            f"{text!r} has {len(here.tokens)} tokens and {other!r} {len(there.tokens)}: as many are needed"
        )
    recorded = lm.run(there, record=place)
    name = recorded.name(place)
    sizes = dict(zip(edits.check_axes(dict.fromkeys(by, 0), name), recorded[place].shape, strict=True))
    spots = list(product(*(range(sizes[axis]) for axis in by)))
    patches = [edits.resample(name, recorded, **dict(zip(by, spot, strict=True))) for spot in spots]
    return lm.sweep(here, patches, measure)[:, 0].reshape([sizes[axis] for axis in by])
