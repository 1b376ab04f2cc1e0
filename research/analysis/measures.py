"""What is asked of the logits at one place of each text: a number for each, as `LanguageModel.sweep` and `gradients`
take it. The tokens that are meant are data, so that one program serves all of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from research.errors import InputError
from research.inference import text_examples
from research.inference.inside import Measure
from research.inference.language_model import LanguageModel

Words = str | Sequence[str]  # one for all texts, or one for each


def logit_difference(lm: LanguageModel, right: Words, wrong: Words) -> Measure:
    """The logit of one token less that of another (Wang et al. 2023, section 2)."""
    return Partial(_logit_difference, tokens(lm, right), tokens(lm, wrong))


def log_probability(lm: LanguageModel, word: Words) -> Measure:
    """Of one token, nats."""
    return Partial(_log_probability, tokens(lm, word))


def probability(lm: LanguageModel, word: Words) -> Measure:
    """Of one token."""
    return Partial(_probability, tokens(lm, word))


def logit(lm: LanguageModel, word: Words) -> Measure:
    """Of one token."""
    return Partial(_logit, tokens(lm, word))


def divergence(lm: LanguageModel, texts: Sequence[str] | str) -> Measure:
    """The Kullback-Leibler divergence, nats, of the distribution from the one that the model has without any edit."""
    examples = lm.examples(texts)
    logits = lm.run(examples).logits
    read = [logits[number, place] for number, place in enumerate(text_examples.answer_places(lm.tokenizer, examples))]
    return Partial(_divergence, np.stack(read))


def tokens(lm: LanguageModel, words: Words) -> np.ndarray:
    """The first token of each, int32 `[1]` or `[texts]`. Raises InputError for a word that has none."""
    several = [words] if isinstance(words, str) else list(words)
    ids = [lm.tokenizer.encode(word) for word in several]
    empty = [word for word, each in zip(several, ids, strict=True) if not each]
    if empty:
        raise InputError(f"{empty[0]!r} has no token")
    return np.array([each[0] for each in ids], np.int32)


def _logit(token: Array, logits: Float[Array, "texts vocabulary"]) -> Float[Array, " texts"]:
    which = jnp.broadcast_to(token, logits.shape[:1])
    return jnp.take_along_axis(logits, which[:, None], axis=-1)[:, 0]


def _logit_difference(right: Array, wrong: Array, logits: Array) -> Float[Array, " texts"]:
    return _logit(right, logits) - _logit(wrong, logits)


def _log_probability(token: Array, logits: Array) -> Float[Array, " texts"]:
    return _logit(token, logits) - jax.nn.logsumexp(logits, axis=-1)


def _probability(token: Array, logits: Array) -> Float[Array, " texts"]:
    return jnp.exp(_log_probability(token, logits))


def _divergence(plain: Array, logits: Array) -> Float[Array, " texts"]:
    ours, theirs = jax.nn.log_softmax(plain), jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(ours) * (ours - theirs), axis=-1)
