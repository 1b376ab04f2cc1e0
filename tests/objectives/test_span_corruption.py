import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from research import config
from research.config import MLP, Attention, Data, Experiment, Logging, Model, Schedule
from research.objectives import span_corruption
from research.runs.trainer import train
from tests.objectives.shared import BOS, EOS, SENTINELS, show

X, Y, Z = SENTINELS[:3]


def test_the_example_of_the_t5_paper():
    """Raffel et al. 2020, figure 2: "Thank you <X> me to your party <Y> week." and "<X> for inviting <Y> last <Z>"."""
    text = np.arange(10)  # Thank you for inviting me to your party last week
    mask = np.isin(text, [2, 3, 8])
    inputs, outputs = span_corruption.corrupt(text, mask, SENTINELS)
    assert inputs.tolist() == [0, 1, X, 4, 5, 6, 7, Y, 9]
    assert outputs.tolist() == [X, 2, 3, Y, 8, Z]
    assert span_corruption.fill(inputs, outputs, SENTINELS).tolist() == text.tolist()


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_corruption_is_invertible_for_any_mask(mask, data):
    text = np.array(data.draw(st.lists(st.integers(0, 89), min_size=len(mask), max_size=len(mask))))
    inputs, outputs = span_corruption.corrupt(text, np.array(mask), SENTINELS)
    assert span_corruption.fill(inputs, outputs, SENTINELS).tolist() == text.tolist()


def test_filling_leaves_out_what_is_missing_and_ignores_what_is_not_asked_for():
    assert span_corruption.fill(np.array([1, X, 2, Y]), np.array([7, Y, 5]), SENTINELS).tolist() == [1, 2, 5]
    assert span_corruption.fill(np.array([1, X]), np.array([X, 3, Z, 4]), SENTINELS).tolist() == [1, 3]


@given(st.integers(2, 400), st.floats(0.01, 0.99), st.floats(1, 10), st.integers(0, 9))
def test_masks_have_the_counts_that_follow_from_the_length(length, rate, span, key):
    mask = span_corruption.noise_mask(length, (key,), rate, span)
    hidden, spans = span_corruption.counts(length, rate, span)
    assert len(mask) == length and mask.sum() == hidden and 1 <= hidden < length
    assert (np.diff(mask.astype(int)) == 1).sum() == spans
    assert not mask[0] and mask[-1]


@pytest.mark.parametrize(("rate", "span"), [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.5, 32.0)])
def test_rate_and_mean_span_hold(rate, span):
    masks = [span_corruption.noise_mask(512, (key,), rate, span) for key in range(100)]
    hidden = np.mean([mask.mean() for mask in masks])
    spans = np.mean([(np.diff(mask.astype(int)) == 1).sum() for mask in masks])
    assert hidden == pytest.approx(rate, abs=1 / 512)
    assert hidden * 512 / spans == pytest.approx(span, rel=0.07)


def test_spans_lie_everywhere_and_have_all_lengths():
    masks = np.array([span_corruption.noise_mask(60, (key,), 0.3, 3.0) for key in range(3000)])
    share = masks.mean(axis=0)
    assert share[0] == 0 and share[-1] == 1  # as T5 draws them
    assert np.abs(share[6:-6] - 0.3).max() < 0.1
    lengths = np.concatenate([np.diff(np.flatnonzero(np.diff(np.pad(m.astype(int), 1))))[::2] for m in masks])
    assert lengths.mean() == pytest.approx(3.0)
    assert set(range(1, 9)) <= set(lengths.tolist())


@pytest.mark.parametrize("key", range(5))
def test_an_example_can_be_put_together_again(key):
    piece = np.array([BOS, *range(40), EOS], np.int32)
    sides = show(config.SpanCorruption(), piece, (key,), encoder_decoder=True)
    assert sides.source[-1] == sides.targets[-1] == EOS
    assert sides.tokens.tolist() == [BOS, *sides.targets[:-1]]
    assert sides.weights.all()
    assert span_corruption.fill(sides.source[:-1], sides.targets[:-1], SENTINELS).tolist() == list(range(40))
    row = show(config.SpanCorruption(), piece, (key,))
    read = len(sides.source)
    assert row.tokens.tolist() == [*sides.source, *sides.targets[:-1]]
    assert row.targets[read - 1 :].tolist() == sides.targets.tolist()
    assert row.weights.tolist() == [0] * (read - 1) + [1] * len(sides.targets)
    assert (row.levels[:read] == 0).all() and (np.diff(row.levels[read - 1 :]) == 1).all()


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize("piece", [[5], [BOS, 5, EOS], [EOS]])
def test_a_piece_with_nothing_to_hide_is_read_without_loss(piece, encoder_decoder):
    shown = show(config.SpanCorruption(), np.array(piece, np.int32), encoder_decoder=encoder_decoder)
    assert shown.weights.sum() == 0
    assert len(shown.tokens) >= 1


def test_documents_with_nothing_to_hide_train_and_have_no_loss(tmp_path):
    lines = (json.dumps({"text": letter}) for letter in "abcdefgh" * 5)
    (tmp_path / "letters.jsonl").write_text("\n".join(lines))
    data = Data(
        source=f"jsonl:{tmp_path}/letters.jsonl#text",
        tokenizer="bytes",
        length=16,
        batch=8,
        cache=str(tmp_path / "cache"),
    )
    experiment = Experiment(
        model=Model(width=8, depth=1, attention=Attention(heads=2), mlp=MLP(width=8)),
        objectives=(config.SpanCorruption(),),
        data=data,
        schedule=Schedule(steps=2, warmup=1),
        logging=Logging(tensorboard=False),
    )
    result = train(experiment, tmp_path / "run", Console(file=io.StringIO()))
    losses = result["objectives"]["span_corruption"]
    assert losses["loss"] is None and losses["unigram"] is None
