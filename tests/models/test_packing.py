"""A document has the same features alone in a row and packed beside others."""

import numpy as np
import pytest

from tests.models.tiny import POSITIONS, batch, example, hidden, model, parameters

LENGTH = 20
CHANGES = {
    "decoder": {},
    "encoder-decoder": {"encoder_depth": 2},
    "bert": {
        "norm.kind": "layernorm",
        "norm.bias": True,
        "norm.placement": "post",
        "norm.embedding": True,
        "embedding.token_types": 2,
        "head.transform": True,
        "head.bias": True,
        "head.tied": True,
    },
    "windows": {
        "depth": 3,
        "attention.window": 2,
        "attention.global_every": 3,
        "positions.local_theta": 100.0,
        "norm.first": False,
    },
}


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        *(("decoder", positions) for positions in POSITIONS),
        *(("encoder-decoder", positions) for positions in ("relative", "learned")),
        *(("bert", "learned"), ("windows", "rope"), ("windows", "relative")),
    ],
)
def test_packed_is_unpacked(kind, positions):
    random = np.random.default_rng(0)
    sources = (4, 7, 5) if kind == "encoder-decoder" else (None,) * 3
    kinds = ("masked",) * 3 if kind == "bert" else ("causal", "prefix:3", "causal")
    documents = [example(random, n, k, source) for n, k, source in zip((7, 5, 6), kinds, sources, strict=True)]
    rows = [documents, *([document] for document in documents)]  # one row of all, then one of each
    packed = batch(rows, LENGTH, 18 if kind == "encoder-decoder" else None)
    config = model(LENGTH, **CHANGES[kind], **{"positions.kind": positions})
    params = parameters(config)
    features = np.asarray(hidden(config, params, packed))
    assert np.isfinite(features).all()
    start = 0
    for number, document in enumerate(documents, start=1):
        places = len(document.tokens)
        alone, together = features[number, :places], features[0, start : start + places]
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
        start += places
    assert abs(features[1, :5] - features[2, :5]).max() > 0.1  # documents do differ
