"""Activation patching, where its result is known."""

import numpy as np
import pytest

from research.analysis import measures, patching
from research.errors import InputError
from tests.analysis.models import TEXT, language_model

OTHER = "the cat sit on the mat"  # differs in one token, the ninth


@pytest.fixture(scope="module")
def lm():
    return language_model()


def test_a_difference_lives_where_it_is_read_and_ends_where_it_is_said(lm):
    measure = measures.logit_difference(lm, "x", "y")
    found = patching.patch(lm, TEXT, OTHER, measure, "residual_before")
    plain, other = (patching.patch(lm, text, text, measure, by=("layer",))[0] for text in (TEXT, OTHER))
    place = next(n for n, (a, b) in enumerate(zip(TEXT, OTHER, strict=True)) if a != b) + 1  # after the first token
    assert found.shape == (2, len(TEXT) + 1)
    assert found[0, place] == pytest.approx(other, rel=1e-4)  # before the first layer, only that token differs
    np.testing.assert_allclose(np.delete(found[0], place), plain, rtol=1e-4)
    np.testing.assert_allclose(found[1, :place], plain, rtol=1e-4)  # what precedes it never knows
    last = patching.patch(lm, TEXT, OTHER, measure)[-1]
    assert last[-1] == pytest.approx(other, rel=1e-4)  # after the last layer, only the last token says anything
    np.testing.assert_allclose(last[:-1], plain, rtol=1e-4)


def test_heads_are_patched_one_by_one(lm):
    measure = measures.log_probability(lm, "x")
    found = patching.patch(lm, TEXT, OTHER, measure, "heads", by=("layer", "head"))
    assert found.shape == (2, 4) and len(np.unique(found)) == 8


def test_texts_of_different_lengths_are_refused(lm):
    with pytest.raises(InputError, match="has 23 tokens and 'short' 6: as many are needed"):
        patching.patch(lm, TEXT, "short", measures.log_probability(lm, "x"))
