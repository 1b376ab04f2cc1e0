"""Our evaluator, our adapter and the harness' own backend agree on a real model and real tasks."""

import numpy as np
import pytest

from tests.evaluation import against_harness
from tests.evaluation.against_harness import TASKS

pytest.importorskip("lm_eval")
pytest.importorskip("torch")


@pytest.mark.slow
def test_three_ways_agree(shared):
    ours, adapter, hf = against_harness.compare(limit=20).values()
    for name in TASKS:
        for way in (ours, adapter):  # sums over many tokens, in float32
            np.testing.assert_allclose(
                way[name].log_probabilities, hf[name].log_probabilities, rtol=1e-5, atol=1e-3, err_msg=name
            )
        assert ours[name].accuracy == adapter[name].accuracy == hf[name].accuracy
