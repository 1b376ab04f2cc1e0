"""The same weights, batches and AdamW give the same loss curve in `transformers` and here."""

import jax
import numpy as np
import pytest

from research import config, models, objectives, sharding
from research.config import replace_fields
from research.models.kernels import blocks
from research.objectives import Batch, Vocabulary
from research.training import optimizer, state, step

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.interop import peers  # noqa: E402

STEPS, ROWS, LENGTH = 50, 8, 24
OPTIMIZER = config.Optimizer(learning_rate=3e-3, weight_decay=0.1, b2=0.98, clip=1.0)
SCHEDULE = config.Schedule(steps=STEPS, warmup=10)
OBJECTIVES = {
    "gpt2": config.Causal(),
    "bert": config.Masked(),
    "t5 1.1": config.SpanCorruption(),
}


def batches(objective: config.Objective, encoder_decoder: bool, size: int) -> list[Batch]:
    """Examples of an easy language: each token follows from the one before it, most of the time."""
    vocabulary = Vocabulary(size, mask=3, sentinels=tuple(range(size - 8, size)), special=frozenset((0, 1, 2, 3)))

    def document(key: tuple[int, ...]) -> np.ndarray:
        random = np.random.default_rng(key)
        tokens = [int(random.integers(4, size - 8))]
        while len(tokens) < LENGTH:
            follows = (5 * tokens[-1] + 7) % (size - 12) + 4
            tokens.append(follows if random.random() < 0.9 else int(random.integers(4, size - 8)))
        return np.array(tokens, np.int32)

    def one(key: tuple[int, ...]) -> Batch:
        example = objectives.example(objective, (document(key),), key, vocabulary, encoder_decoder)
        return objectives.row([example], len(example.tokens), len(example.source) if encoder_decoder else None)

    causal = objectives.causal_only([objective], encoder_decoder)
    return [objectives.stack([one((number, row)) for row in range(ROWS)], causal) for number in range(STEPS)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_curve_is_that_of_transformers(name, monkeypatch):
    monkeypatch.setattr(blocks, "SHORTEST", 4)  # so that causal rows have several blocks of queries
    peer = peers.peer(name, spread=0.5)
    model, _, params = peers.ours(peer)
    model = replace_fields(model, {"dropout": 0.0, "attention.dropout": 0.0})
    data = batches(OBJECTIVES[name], model.encoder_depth > 0, model.vocabulary)
    schedule = optimizer.schedule(SCHEDULE, OPTIMIZER.learning_rate)

    update = optimizer.optimizer(OPTIMIZER, schedule, models.axes(model))
    layout = sharding.layout(config.Mesh(), model, jax.devices()[:1])
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.abstract(model, update, layout))
    run = state.TrainState(jax.numpy.int32(0), params, update.init(params), jax.numpy.uint32(0))
    run = jax.device_put(run, shardings)
    take = step.make_train_step(model, update, config.Step(), layout)
    ours = []
    for batch in data:
        run, metrics = take(run, sharding.shard_batch(layout, batch))
        ours.append(float(metrics.loss))

    theirs = peer_losses(peer, data, [float(schedule(number)) for number in range(STEPS)])
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.mean(ours[-5:]) < np.mean(ours[:5]) - 0.3  # something was learned, so the curves could have parted


def peer_losses(peer, data: list[Batch], rates: list[float]) -> list[float]:
    """The peer's losses under torch's own AdamW."""
    kernels = [parameter for parameter in peer.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in peer.parameters() if parameter.ndim == 1]
    groups = [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]
    decay, betas = OPTIMIZER.weight_decay, (OPTIMIZER.b1, OPTIMIZER.b2)
    adamw = torch.optim.AdamW(groups, betas=betas, eps=OPTIMIZER.epsilon, weight_decay=decay)
    losses = []
    for rate, batch in zip(rates, data, strict=True):
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.zero_grad()
        loss = peers.loss(peers.outputs(peer, batch), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), OPTIMIZER.clip)
        adamw.step()
        losses.append(loss.item())
    return losses
