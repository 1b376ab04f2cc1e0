"""A vocabulary of 90 ordinary tokens, and every objective over it."""

import numpy as np
from hypothesis import strategies as st

from research import config
from research.objectives import Vocabulary

BOS, EOS, MASK, MODE, SENTINELS = 90, 91, 92, 93, tuple(range(120, 93, -1))
VOCABULARY = Vocabulary(
    size=121,
    bos=BOS,
    eos=EOS,
    mask=MASK,
    sentinels=SENTINELS,
    modes={"[X]": MODE},
    starts_word=np.arange(121) % 3 == 0,
    special=frozenset({BOS, EOS, MASK, MODE, *SENTINELS}),
)
SINGLE = [
    config.Causal(),
    config.Masked(mask_rate=0.3),
    config.Masked(whole_words=True),
    config.Prefix(),
    config.SpanCorruption(),
    config.SpanCorruption(noise_rate=0.5, mean_span=1.5),
    config.SpanCorruption(noise_rate=0.8, mean_span=4),
]
EVERY = [*SINGLE, config.TextToText()]
SOURCED = [o for o in EVERY if isinstance(o, config.Prefix | config.SpanCorruption | config.TextToText)]
CASES = [(o, False) for o in EVERY] + [(o, True) for o in SOURCED]  # objective, encoder_decoder

pieces = st.lists(st.integers(0, 89), min_size=2, max_size=24).map(lambda ids: np.array(ids, np.int32))


def show(objective, piece, key=(0,), encoder_decoder=False):
    """The example of a piece, which is cut in the middle to make a pair."""
    pairs = isinstance(objective, config.TextToText)
    parts = (piece[: len(piece) // 2], piece[len(piece) // 2 :]) if pairs else (piece,)
    return objective.example(parts, key, VOCABULARY, encoder_decoder)


def visible(shown, query):
    """The tokens that a place of the row sees, by the one attention rule."""
    return shown.tokens[shown.levels <= shown.levels[query]]
