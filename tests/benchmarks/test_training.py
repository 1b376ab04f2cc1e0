"""What is measured beside the peer is the same work."""

from dataclasses import replace

import pytest

from research.benchmarks import checkpointing, data_loading, training
from research.config import MLP, Attention, Causal, Data, Experiment, Masked, Model, Optimizer, Schedule, replace_fields
from research.models import families

SMALL = Experiment(
    model=Model(width=32, depth=2, attention=Attention(heads=2), mlp=MLP(width=48)),
    objectives=(Causal(),),
    data=Data(source="python-docs", tokenizer="bytes", length=32, batch=8),
    optimizer=Optimizer(learning_rate=1e-3),
    schedule=Schedule(steps=100, warmup=1),
)


def test_ours_counts_tokens_and_seconds():
    facts, turn = training.ours(SMALL)
    measured = turn(3)
    assert facts["tokens"] == 8 * 32
    assert 0 < measured["unpadded_rate"] <= measured["rate"]
    assert 0 < measured["step"] < 60 and 0 <= measured["waiting"] <= 1
    assert measured["rate"] == pytest.approx(8 * 32 / measured["step"], rel=3)


def test_the_loader_alone_gives_the_batches_of_the_run():
    facts, turn = data_loading.loading(SMALL)
    assert facts["tokens"] == 8 * 32 and turn(5)["rate"] > 0


def test_tokenising_counts_the_tokens_of_the_source():
    facts, turn = data_loading.preparing(SMALL)
    assert facts["tokens"] > 100_000
    assert turn(1)["rate"] > 0


def test_a_turn_with_a_save_takes_its_steps_and_leaves_nothing_open():
    for saving_too in (True, False):
        facts, turn = checkpointing.steps(SMALL, saving_too)
        assert facts["bytes"] > 3 * 4 * 2 * 12 * 32**2  # parameters and two moments
        for _ in range(2):
            measured = turn(2)
            assert measured["rate"] == pytest.approx(2 / measured["seconds"])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "objective"), [(families.GPT2, Causal()), (families.BERT, Masked())])
def test_the_peer_begins_with_the_same_loss(family, objective):
    """But for rows in which a document ends: there, those of the peer see each other."""
    model = replace_fields(
        family,
        {
            "width": 32,
            "depth": 2,
            "vocabulary": 0,
            "attention.heads": 2,
            "mlp.width": 48,
            "dropout": 0.0,
            "attention.dropout": 0.0,
        },
    )
    experiment = replace(SMALL, model=model, objectives=(objective,))
    ours, _ = training.ours(experiment)
    theirs, turn = training.theirs(experiment, "float32")
    assert theirs["parameters"] == ours["parameters"]
    assert theirs["first_loss"] == pytest.approx(ours["first_loss"], abs=0.01)
    assert turn(2)["rate"] > 0
