"""Our evaluator, our adapter and the harness' own backend agree on a real model and real tasks."""

import pytest

from tests.evaluation import against_harness
from tests.evaluation.against_harness import TASKS, furthest

pytest.importorskip("lm_eval")
pytest.importorskip("torch")


@pytest.mark.slow
def test_three_ways_agree(shared):
    ours, adapter, hf = against_harness.compare(limit=20).values()
    for name in TASKS:
        assert furthest(adapter[name], hf[name]) < 1e-3 and furthest(ours[name], hf[name]) < 1e-3
        assert ours[name].accuracy == adapter[name].accuracy == hf[name].accuracy
