"""Reading a document piece by piece with a cache gives the features of reading it at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.config import Lora, RopeScaling
from research.models import Intervals
from tests.models.tiny import batch, example, hidden, model, parameters

LENGTH, SOURCE, PROMPT = 16, 8, 9
KINDS = {"causal": (1, 1, 1), "prefix": (3, 5, 2)}  # places that see each other, in each of three prompts
PROMPTS = np.array([4, 9, 2])  # their lengths

decode = jax.jit(models.decode, static_argnums=0)
encode = jax.jit(models.encode, static_argnums=0)


LORA = Lora(rank=2, targets=("*/query", "decoder/layers/mlp/*"))


@pytest.mark.parametrize(
    ("encoder_depth", "kind", "window", "stacked", "lora", "positions"),
    [
        *((0, "causal", 0, True, None, positions) for positions in ("learned", "none")),
        *((0, "prefix", 3, False, LORA, positions) for positions in ("rope", "relative")),
        *((2, "causal", 0, False, None, positions) for positions in ("learned", "relative")),
        *((2, "causal", 3, True, None, positions) for positions in ("rope", "none")),
    ],
)
def test_cached_decoding_is_the_whole_forward_pass(encoder_depth, positions, kind, window, stacked, lora):
    config = model(
        LENGTH,
        encoder_depth=encoder_depth,
        lora=lora,
        **{"positions.kind": positions, "attention.window": window, "attention.global_every": 2},
    )
    check(config, kind, stacked)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm.placement": "sandwich", "attention.softcap": 2.0, "embedding.scale": 2.0, "positions.skip_every": 2}
        | {"attention.window": 3, "attention.global_every": 2, "attention.first_global": 1, "positions.rotary_width": 2}
        | {"attention.qk_norm": True, "attention.qk_norm_joint": True, "positions.local_scaling": False}
        | {"positions.scaling": RopeScaling("yarn", 4.0, high_frequency=32.0, original_length=8, magnitude=1.2)},
        {"parallel_residual": True, "norm.shared": True, "embedding.width": 6, "attention.window": 3}
        | {"attention.global_every": 0},
        {"shared_layers": True, "norm.placement": "output"},
        {"encoder_depth": 2, "positions.kind": "relative", "positions.per_layer": True},
    ],
)
def test_features_of_other_families_decode_too(changes):
    check(model(LENGTH, **changes), "causal", stacked=False)


def check(config, kind, stacked):
    encoder_depth = config.encoder_depth
    random = np.random.default_rng(0)
    prefixes = np.array(KINDS[kind])
    sources = (5, 8, 3) if encoder_depth else (None,) * 3
    documents = [example(random, LENGTH, f"prefix:{p}", s) for p, s in zip(prefixes, sources, strict=True)]
    packed = batch([[document] for document in documents], LENGTH, SOURCE if encoder_depth else None)
    params = parameters(config)
    expected = np.asarray(hidden(config, params, packed))

    def source(queries, encoded):
        if not encoder_depth:
            return None
        ends = jnp.broadcast_to(jnp.array(sources)[:, None], (3, queries))
        return encoded, Intervals(jnp.zeros_like(ends), ends)

    # the prompts at once, which end at one slot: what is before them is garbage that they may not see
    if not stacked:
        params = models.for_decoding(config, params)
    begin = PROMPT - PROMPTS[:, None]
    place = np.arange(PROMPT) - begin
    tokens = np.where(place >= 0, np.take_along_axis(packed.tokens, np.maximum(place, 0), axis=1), 63)
    slots = np.broadcast_to(np.arange(PROMPT), (3, PROMPT))
    seen = Intervals(np.minimum(begin, slots), np.maximum(slots + 1, begin + prefixes[:, None]))
    encoded = encode(config, params, packed.source) if encoder_depth else None
    cache = models.empty_cache(config, params, 3, LENGTH + 3)
    features, cache = decode(config, params, tokens, np.maximum(place, 0), 0, seen, cache, source(PROMPT, encoded))
    for row, end in enumerate(PROMPTS):
        np.testing.assert_allclose(features[row, PROMPT - end :], expected[row, :end], rtol=1e-4, atol=1e-4)

    # then one token after the other, each row at its own place
    for step in range(LENGTH - PROMPT):
        place = PROMPTS[:, None] + step
        tokens = np.take_along_axis(packed.tokens, place, axis=1)
        slot = PROMPT + step
        seen = Intervals(begin, np.full_like(place, slot + 1))
        features, cache = decode(config, params, tokens, place, slot, seen, cache, source(1, None))
        for row, end in enumerate(PROMPTS):
            np.testing.assert_allclose(features[row, 0], expected[row, end + step], rtol=1e-4, atol=1e-4)
