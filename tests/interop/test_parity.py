"""Every family gives the numbers of `transformers`, and what is exported loads there with the same numbers."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.interop import parity, peers


@pytest.mark.parametrize(
    "name", [name if name in peers.ORDINARY else pytest.param(name, marks=pytest.mark.slow) for name in peers.PEERS]
)
def test_numbers_are_those_of_transformers(name):
    measured = parity.measure(name)
    assert measured.logits < 1e-4
    assert measured.loss < 1e-5
    assert measured.exported < 1e-6
    assert measured.greedy in (True, None)
    assert measured.ids
