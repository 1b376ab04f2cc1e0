"""Places of the forward pass: what is recorded is what was computed, and an edit changes that and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.analysis import measures
from research.config import Lora
from research.errors import InputError
from research.inference import edits, inside, text_examples
from research.models import adapters
from tests.analysis.models import TEXT, language_model

OTHER = "the dog ate up the hat"  # as many bytes
PAIR = ("the cat sat", "a dog!")  # of different lengths


@pytest.fixture(scope="module")
def lm():
    return language_model()


@pytest.fixture(scope="module")
def seen(lm):
    return lm.run(TEXT, record="*")


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ("causal", {}),
        (
            "masked",
            {"positions.kind": "learned", "norm.placement": "post", "norm.embedding": True, "attention.qk_norm": True},
        ),
        ("span_corruption", {"encoder_depth": 2, "positions.kind": "relative"}),
        ("causal", {"lora": Lora(rank=2), "quantization_bits": 8, "attention.window": 4, "attention.global_every": 2}),
    ],
    ids=["causal", "masked", "encoder-decoder", "adapters"],
)
def test_watching_changes_no_bit(objective, changes):
    """Nor does putting everything where it was; and what is recorded is all that the model has."""
    model = language_model(**changes)
    example = model.example(TEXT, objective)
    plain = model._logits([example])[0, : len(example.tokens)]
    nothing = model.run(example)
    assert (nothing.logits[0] == plain).all() and not nothing.recorded
    everything = model.run(example, record="*")
    assert (everything.logits[0] == plain).all()
    known = inside.known_places(model.config, model._batch([example]))
    assert everything.recorded.keys() == known.keys()
    for name, array in everything.recorded.items():
        assert array.ndim == len(models.places.axes(name)) and np.isfinite(array).all()
    again = model.run(example, edits=[edits.resample(name, everything) for name in everything.recorded])
    assert (again.logits[0] == plain).all()


def test_the_stream_is_the_sum_of_what_is_added_to_it(seen):
    stream = seen["embedding"][None] + np.cumsum(seen["attention/output"] + seen["decoder/mlp/output"], axis=0)
    np.testing.assert_allclose(stream, seen["residual"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(seen["residual"][0], seen["residual_before"][1])
    weighted = np.einsum("lbhqk,lbkhd->lbqhd", seen["weights"], np.repeat(seen["values"], 2, axis=3))
    np.testing.assert_allclose(weighted, seen["heads"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["weights"].sum(-1), 1, rtol=1e-5)


def test_a_head_that_is_zeroed_is_a_head_without_its_output_kernel(lm):
    kernel = np.array(lm.params["decoder"]["layers"]["attention"]["out"]["kernel"])
    kernel[1, 2] = 0  # [layer, head, feature, width]
    params = jax.tree.map(jnp.asarray, lm.params)
    params["decoder"]["layers"]["attention"]["out"]["kernel"] = jnp.asarray(kernel)
    without = type(lm)(lm.config, params, lm.tokenizer, lm.objectives)
    zeroed = lm.run(TEXT, edits=[edits.zero("heads", layer=1, head=2)])
    np.testing.assert_allclose(zeroed.logits, without.run(TEXT).logits, rtol=1e-5, atol=1e-5)
    assert not np.allclose(zeroed.logits, lm.run(TEXT).logits, atol=1e-3)


def test_an_edit_acts_where_it_says(lm, seen):
    changed = lm.run(TEXT, record="residual", edits=[edits.add("residual", np.ones(16), layer=0, token=3)])
    difference = changed["residual"] - seen["residual"]
    np.testing.assert_allclose(difference[0, 0, 3], 1, rtol=1e-5)
    assert np.abs(np.delete(difference[0, 0], 3, axis=0)).max() == 0
    assert np.abs(difference[1, 0, :3]).max() == 0 and np.abs(difference[1, 0, 3:]).min() > 0


def test_tokens_count_from_the_end_of_their_own_text(lm):
    """Of texts of different lengths, each as if it were alone."""
    last = edits.scale("residual", 0.5, layer=0, token=-1)
    together = lm.run(PAIR, edits=[last])
    for number, text in enumerate(PAIR):
        alone = lm.run(text, edits=[last]).logits[0]
        np.testing.assert_allclose(together.logits[number, : len(alone)], alone, rtol=1e-4, atol=1e-4)
    only = lm.run(PAIR, edits=[edits.zero("residual", text=1)])
    plain = lm.run(PAIR)
    assert (only.logits[0] == plain.logits[0]).all() and not np.allclose(only.logits[1], plain.logits[1])


def test_the_last_stream_decides_the_logits(lm, seen):
    other = lm.run(OTHER, record="residual")
    patched = lm.run(TEXT, edits=[edits.resample("residual", other, layer=1)])
    np.testing.assert_allclose(patched.logits, other.logits, rtol=1e-5, atol=1e-5)
    half = lm.run(TEXT, record="residual", edits=[edits.resample("residual", other, layer=1, token=slice(4))])
    np.testing.assert_array_equal(half["residual"][1, :, :4], other["residual"][1, :, :4])
    np.testing.assert_array_equal(half["residual"][1, :, 4:], seen["residual"][1, :, 4:])


def test_a_direction_is_projected_out(lm):
    direction = np.random.default_rng(0).normal(size=16)
    run = lm.run(TEXT, record="residual", edits=[edits.project_out("residual", direction)])
    assert np.abs(run["residual"] @ direction).max() < 1e-4
    np.testing.assert_allclose(run.at("residual", layer=1, token=-1), run["residual"][1, :, -1])


def test_attention_can_be_frozen(lm, seen):
    run = lm.run(OTHER, record=("weights", "values"), edits=[edits.freeze_attention(seen)])
    np.testing.assert_array_equal(run["weights"], seen["weights"])
    assert not np.allclose(run["values"][1], seen["values"][1])
    unseen = np.triu_indices(1 + len(TEXT), 1)
    forced = lm.run(TEXT, record="weights", edits=[edits.set("scores", 9.0)])
    assert (forced["weights"][..., unseen[0], unseen[1]] == 0).all()  # an edit cannot let the future in


def test_the_mean_is_that_of_the_tokens_that_there_are(lm):
    both = lm.run(PAIR, record="mlp/hidden")
    rows = [both["hidden"][:, number, :length] for number, length in enumerate(both.lengths.token)]
    mean = np.concatenate(rows, axis=1).mean(axis=1)
    np.testing.assert_allclose(both.mean("hidden")[:, 0, 0], mean, rtol=1e-4, atol=1e-6)
    run = lm.run(TEXT, record="hidden", edits=[edits.mean("hidden", both, layer=1, neuron=[0, 5])])
    np.testing.assert_allclose(run["hidden"][1, 0, :, 5], mean[1, 5], rtol=1e-5)


def test_adapters_can_be_switched_off():
    lm = language_model(lora=Lora(rank=2))
    leaves = {path: leaf for path, leaf in models.flatten(lm.params).items() if not adapters.is_adapter(path)}
    base = type(lm)(adapters.plain(lm.config), models.unflatten(leaves), lm.tokenizer, lm.objectives)
    off = lm.run(TEXT, edits=[edits.adapters_off()])
    np.testing.assert_allclose(off.logits, base.run(TEXT).logits, rtol=1e-4, atol=1e-4)
    assert not np.allclose(off.logits, lm.run(TEXT).logits, atol=1e-2)


def test_a_sweep_is_many_runs_in_one_program(lm):
    """Every layer and token, with a measure of two texts at once; other edits of the shape compile nothing."""
    other = lm.run((OTHER, OTHER), record="residual")
    texts, measure = (TEXT, OTHER), measures.logit_difference(lm, "x", ("y", "z"))
    places = [{"layer": layer, "token": token} for layer in range(2) for token in (0, 7, -1)]
    swept = lm.sweep(texts, [edits.resample("residual", other, **place) for place in places], measure)
    for place, found in zip(places, swept, strict=True):
        run = lm.run(texts, edits=[edits.resample("residual", other, **place)])
        ids = [lm.tokenizer.encode(word)[0] for word in "xyz"]
        expected = [
            run.logits[0, -1, ids[0]] - run.logits[0, -1, ids[1]],
            run.logits[1, -1, ids[0]] - run.logits[1, -1, ids[2]],
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    compiled = inside._sweep._cache_size()
    fresh = lm.run((TEXT, TEXT), record="residual")
    measure = measures.logit_difference(lm, "a", ("b", "c"))
    lm.sweep(texts, [edits.resample("residual", fresh, layer=layer, token=2) for layer in (0, 1, 1, 0, 1)], measure)
    assert inside._sweep._cache_size() == compiled
    with pytest.raises(InputError, match="the same places and functions"):
        lm.sweep(texts, [edits.zero("residual"), edits.scale("residual", 2.0)], measure)


def test_values_of_their_own_are_swept_too(lm):
    directions = np.random.default_rng(0).normal(size=(3, 16))
    measure = measures.log_probability(lm, "x")
    swept = lm.sweep(TEXT, [edits.add("residual", each, layer=0) for each in directions], measure)
    token = lm.tokenizer.encode("x")[0]
    for each, found in zip(directions, swept, strict=True):
        logits = lm.run(TEXT, edits=[edits.add("residual", each, layer=0)]).logits[0, -1]
        np.testing.assert_allclose(found, jax.nn.log_softmax(logits)[token], rtol=1e-4)


def test_gradients_are_those_of_small_changes(lm):
    measure = measures.logit_difference(lm, "x", "y")
    value, recorded, slopes = lm.gradients(TEXT, ("residual", "mlp/hidden"), measure)
    step = 1e-2 * np.random.default_rng(0).normal(size=recorded["decoder/residual"][:1].shape)
    ahead, behind = (lm.sweep(TEXT, [edits.add("residual", sign * step, layer=0)], measure)[0, 0] for sign in (1, -1))
    expected = (slopes["decoder/residual"][0] * step[0]).sum()
    assert (ahead - behind) / 2 == pytest.approx(expected, rel=2e-2)
    np.testing.assert_allclose(value, lm.sweep(TEXT, [edits.scale("residual", 1.0)], measure)[0], rtol=1e-5)
    assert recorded.keys() == slopes.keys() == {"decoder/residual", "decoder/mlp/hidden"}


def test_a_mask_is_where_a_masked_model_answers(lm):
    text = "the [MASK]at sat"
    (example,) = lm.examples(text, "masked")
    assert text_examples.answer_places(lm.tokenizer, [example]) == [5]
    run = lm.run(example)
    best = lm.fill(text, 1, "masked")[0][0]
    assert lm.tokenizer.pieces([int(run.logits[0, 5].argmax())]) == [best.token]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda lm, seen: lm.run(TEXT, record="resid"),
            "no place 'resid' in this model; there are decoder/attention/heads",
        ),
        (
            lambda lm, seen: lm.run(TEXT, edits=[edits.zero("residual", head=1)]),
            "has no axis 'head'; it has layer, text",
        ),
        (lambda lm, seen: lm.run(TEXT, edits=[edits.zero("residual", layer=2)]), "layer=2: 'decoder/residual' has 2"),
        (lambda lm, seen: lm.run(TEXT, edits=[edits.zero("residual", token=-24)]), "token=-24: .* from 0 to 22"),
        (
            lambda lm, seen: lm.run(TEXT, edits=[edits.add("residual", np.ones(5))]),
            "along 'width' it has 5, where 1 or 16",
        ),
        (
            lambda lm, seen: lm.run("short", edits=[edits.resample("residual", seen)]),
            "along 'token' it has 23, where 1 or 6",
        ),
        (lambda lm, seen: seen["output"], "not one place but several"),
        (lambda lm, seen: lm.run(TEXT)["residual"], "was not recorded"),
    ],
)
def test_what_does_not_fit_is_named(lm, seen, ask, message):
    with pytest.raises(InputError, match=message):
        ask(lm, seen)
