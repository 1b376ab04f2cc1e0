"""What a model does inside, recomputed from its parts, and the pictures of who sees whom."""

import numpy as np
import pytest

from research.analysis import heads, lens, losses, visibility
from research.errors import InputError
from tests.analysis.models import TEXT, language_model


@pytest.fixture(scope="module")
def lm():
    return language_model()


def test_one_head_recomputed_is_the_models_own(lm):
    inside = lm.inside(TEXT)
    for layer, head, place in ((0, 0, 5), (1, 3, 10), (1, 1, 0)):
        one = heads.one_head(lm, inside, layer, head, place)
        np.testing.assert_allclose(one.weights, inside.attention[layer, head, place], atol=1e-5)
        assert one.result.shape == one.query.shape == (4,)
        assert one.weights[place + 1 :].max(initial=0) == 0
    with pytest.raises(InputError, match="more than products"):
        heads.one_head(language_model(**{"positions.kind": "relative"}), inside, 0, 0, 0)


def test_the_lens_at_the_last_layer_is_the_model(lm):
    seen = lens.lens(lm, TEXT)
    table = lm.token_losses(TEXT, "causal")
    np.testing.assert_allclose(seen.loss[-1], table["loss"], rtol=1e-4)
    assert seen.following == table["target"]
    best = np.array(seen.best[-1]) == np.array(seen.following)
    assert best.tolist() == [rank == 1 for rank in table["rank"]]
    assert not np.allclose(seen.loss[0], seen.loss[1])


def test_the_lens_reads_models_with_their_norms_after_each_block():
    lm = language_model(
        **{
            "norm.placement": "post",
            "head.transform": True,
            "norm.kind": "layernorm",
            "norm.bias": True,
            "mlp.bias": True,
        }
    )
    example = lm.example(TEXT, "causal")
    np.testing.assert_allclose(lm.lens(example)[-1][:-1], lm.logits([TEXT])[0][:-2], rtol=1e-3, atol=1e-4)


def test_a_head_that_looks_back_one_place_has_the_score_one():
    weights = np.zeros((1, 2, 6, 6))
    weights[0, 0] = np.eye(6, k=-1)
    weights[0, 1] = np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]
    weights[0, 0, 0, 0] = 1
    scores = heads.previous_token(weights)
    assert scores[0, 0] == 1 and scores[0, 1] == pytest.approx(np.mean([1 / n for n in range(2, 7)]))
    assert heads.strongest(scores, 2)[0] == (0, 0, 1.0)


def test_a_head_that_finds_what_followed_has_the_induction_score_one(lm, monkeypatch):
    length = 5

    def look(self, example):
        tokens = np.asarray(example.tokens)
        assert len(tokens) == 2 * length and (tokens[:length] == tokens[length:]).all()
        assert len(set(tokens.tolist())) == length
        weights = np.zeros((1, 2, 2 * length, 2 * length))
        for query in range(length, 2 * length):
            weights[0, 0, query, query - length + 1] = 1  # what followed the last time
            weights[0, 1, query, query - length] = 1  # the same token
        return type("Seen", (), {"attention": weights})

    monkeypatch.setattr(type(lm), "look", look)
    assert heads.induction(lm, length, sequences=2).tolist() == [[1.0, 0.0]]


def test_induction_scores_are_shares_of_attention(lm):
    scores = heads.induction(lm, length=6, sequences=1)
    assert scores.shape == (2, 4) and (scores >= 0).all() and (scores <= 1).all()


@pytest.mark.parametrize("objective", ["causal", "masked", "span_corruption"])
def test_the_picture_of_who_sees_whom_is_where_attention_goes(lm, objective):
    example = lm.example(TEXT, objective)
    seen = visibility.matrix(example)
    np.testing.assert_array_equal(lm.look(example).attention[0, 0] > 0, seen)
    table = visibility.shown(lm.tokenizer, example)
    assert table["sees"] == seen.sum(axis=1).tolist() and len(table) == len(example.tokens)
    counted = [target for target in table["target"] if target]
    assert counted == lm.token_losses(TEXT, objective)["target"]


def test_the_softmax_over_the_vocabulary_is_the_models_prediction(lm):
    table = losses.softmax(lm, TEXT, place=3, count=4)
    assert sum(table["probability"]) == pytest.approx(1, rel=1e-5)
    assert table["exp(logit - largest)"][0] == 1
    row = lm.token_losses(TEXT)
    place = table["token"].index(row["target"][3]) if row["target"][3] in table["token"] else None
    if place is not None:
        assert table["probability"][place] == pytest.approx(row["probability"][3], rel=1e-4)
    candidates = lm.next_tokens(TEXT[:3], 4)
    assert table["token"][:4] == [each.token for each in candidates]


def test_losses_of_models_stand_side_by_side(lm):
    other = language_model(width=8, **{"attention.heads": 2})
    table = losses.compared({"one": lm, "other": other}, TEXT)
    assert table["one"] == lm.token_losses(TEXT)["loss"] != table["other"]
    said = losses.continuations({"one": lm, "other": other}, "the cat", (" sat", " mat"))
    assert said["one"][0] == pytest.approx(np.exp(lm.score("the cat", " sat").total))


def test_what_needs_one_stack_is_refused_for_two():
    lm = language_model(encoder_depth=2)
    with pytest.raises(InputError, match="encoder-decoder"):
        heads.induction(lm)
    with pytest.raises(InputError, match="encoder-decoder"):
        lens.lens(lm, TEXT)
