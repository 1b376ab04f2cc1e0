"""Our evaluator, our adapter and the harness' own backend agree on a real model and real tasks."""

from pathlib import Path

import numpy as np
import pytest

import research
from research import interop
from research.evaluation import tasks
from research.inference import prompting
from tests.evaluation import against_harness
from tests.evaluation.against_harness import TASKS
from tests.interop import smollm2

pytest.importorskip("torch")


@pytest.mark.slow
def test_three_ways_agree(shared):
    pytest.importorskip("lm_eval")
    ours, adapter, hf = against_harness.compare(limit=20).values()
    for name in TASKS:
        for way in (ours, adapter):  # sums over many tokens, in float32
            np.testing.assert_allclose(
                way[name].log_probabilities, hf[name].log_probabilities, rtol=1e-5, atol=1e-3, err_msg=name
            )
        assert ours[name].accuracy == adapter[name].accuracy == hf[name].accuracy


@pytest.mark.slow
def test_long_log_likelihoods_are_those_of_float64(shared, tmp_path):
    """Where ours and torch's in float32 differ by more than 1e-3 nats, it is torch's that are further off."""
    import torch
    import transformers

    checkpoint = smollm2.path()
    lm = research.load(checkpoint)
    how = lm.prompt_formats()[0]
    items = tasks.open(tasks.load("piqa"), (Path(shared) / "data" / "eval",), limit=200).items
    requests = sorted((option for item in items for option in item.options), key=lambda one: len(one.text))[-12:]
    scores = dict(pair for done in lm.score_requests(how, requests) for pair in done.scores)
    interop.write(tmp_path / "exported", *interop.load_checkpoint(checkpoint))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float64)
    for number, asked in enumerate(prompting.scoring_examples(how, requests)):
        (example,) = asked.examples
        with torch.no_grad():
            logits = model(torch.tensor(example.tokens[None], dtype=torch.long)).logits[0]
        log_probabilities = torch.log_softmax(logits, dim=-1).numpy()
        expected = log_probabilities[np.arange(len(example.targets)), example.targets] @ example.weights
        assert scores[number].log_probability == pytest.approx(expected, abs=1e-3)
