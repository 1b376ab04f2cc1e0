"""Who sees whom, as a picture of the one attention rule, and what an objective shows of a text."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from research import objectives
from research.data.tokenizers import Tokenizer
from research.inference.table import Table
from research.models.kernels import intervals
from research.objectives import Example


def matrix(example: Example) -> Bool[np.ndarray, "queries keys"]:
    """Whether each place sees each other one (of an encoder-decoder: within the decoder)."""
    batch = objectives.stack([objectives.row([example], len(example.tokens))])
    seen = intervals.from_segments(jnp.asarray(batch.segments), jnp.asarray(batch.levels))
    return np.asarray(intervals.mask(seen, len(example.tokens))[0])


def shown(tokenizer: Tokenizer, example: Example) -> Table:
    """The places of an example: what is read there, what is to be predicted, whether that counts, how many it sees."""
    trained = example.weights > 0
    targets = tokenizer.pieces(example.targets)
    return Table(
        {
            "read": tokenizer.pieces(example.tokens),
            "target": [piece if counts else "" for piece, counts in zip(targets, trained, strict=True)],
            "counts": ["yes" if counts else "no" for counts in trained],
            "sees": matrix(example).sum(axis=1).tolist(),
        }
    )
