"""What is written in batches is what is written alone."""

from dataclasses import replace

import numpy as np
import pytest

from research import config
from research.inference import batch_generation
from research.inference.generation import Sampling
from research.inference.requests import Generation
from tests.evaluation.shared import model, prompt_format

CONTEXTS = ["a", "The capital of", "once upon a time", "b"]


@pytest.mark.parametrize("objective", [config.Causal(), config.Prefix(), config.TextToText(prefix="say ")])
def test_batches_write_what_the_model_writes_alone(objective, monkeypatch):
    monkeypatch.setattr(batch_generation, "BATCH", 3)
    made = model(encoder_depth=int(isinstance(objective, config.TextToText)))
    lm = replace(made, objectives=(objective,))
    how = prompt_format(objective, source_length=64 if made.config.encoder_depth else None)
    few, more = Sampling(tokens=4), Sampling(tokens=6, stop=("e",))
    asked = [Generation(context, few if n % 2 else more) for n, context in enumerate(CONTEXTS)]
    shares, found = [], {}
    for done in lm.generate_requests(how, asked):
        shares.append(done.share)
        found.update(done.texts)
    assert [found[n] for n in range(4)] == [lm.generate(one.context, one.sampling) for one in asked]
    assert shares[-1] == 1 and np.all(np.diff(shares) > 0)
