"""`LanguageModel`: a trained model with its tokenizer, for notebooks and scripts.

    lm = research.load("runs/quickstart")            # or a Hugging Face folder or name, or a GGUF file
    lm.token_losses("Welcome to New York Zoo")       # a table: token, target, loss, probability, rank
    lm.score("Welcome to New York", " City")         # log-probabilities, and whether greedy decoding would say so
    lm.generate("Return the")                        # a continuation
    lm.fill("Return the [MASK] of the list.")        # candidates for a mask
    lm.infill("Return the ", " of the list.")        # a span
    lm.attention("I love New York")                  # [layer, head, query, key]

What a model can do follows from the objectives that it was trained with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from research import config, interop, models, objectives
from research.config import Causal, Masked, Model, Objective, Prefix, SpanCorruption, Stream, TextToText
from research.data import tokenizers
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.evaluation.generation import Prompt, Sampling, bucket, cut, generate
from research.models import Params
from research.objectives import Batch, Example, Vocabulary
from research.tables import Table
from research.training import checkpoint

MASK = "[MASK]"  # how a hidden token is written in a text
Kind = TypeVar("Kind", bound=Stream)


@dataclass(frozen=True)
class Score:
    """How probable a continuation is, in nats."""

    tokens: list[str]
    log_probabilities: np.ndarray  # of each token
    greedy: bool  # whether each was the most probable one

    @property
    def total(self) -> float:
        return float(self.log_probabilities.sum())


@dataclass(frozen=True)
class Candidate:
    """A token for a mask."""

    token: str
    probability: float


@dataclass(frozen=True)
class LanguageModel:
    """A model, its parameters, its tokenizer, and what it was trained to do."""

    config: Model  # resolved
    params: Params
    tokenizer: Tokenizer
    objectives: tuple[Objective, ...]

    def logits(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Float32 `[tokens, vocabulary]` for each text as a whole document, under the first objective's visibility: of
        the next token (causal, prefix) or of the token itself (masked)."""
        masked = not isinstance(self.objectives[0], Causal | Prefix)
        if self.config.encoder_depth:
            raise InputError("an encoder-decoder reads an input and an output: use token_losses or score")
        rows = [self._document(text) for text in texts]
        shown = [objectives.reading(row, masked) for row in rows]
        scores = self._logits(shown)
        return [scores[number, : len(row)] for number, row in enumerate(rows)]

    def token_losses(self, text: str, objective: str | None = None, key: tuple[int, ...] = (0,)) -> Table:
        """What one of the model's objectives makes of a text: a row for each place that it trains.

        Args:
          text: a whole document.
          objective: its name; None: the first one.
          key: decides what is hidden.

        Returns:
          Columns "read", "target", "loss" (nats), "probability" and "rank" (1: the most probable token).
        """
        chosen = self._objective(objective)
        example = objectives.example(chosen, (self._document(text),), key, self._vocabulary, self._encoder_decoder)
        trained = np.flatnonzero(example.weights)
        log_probabilities = _log_softmax(self._logits([example])[0, trained])
        targets = example.targets[trained]
        own = log_probabilities[np.arange(len(targets)), targets]
        return Table(
            {
                "read": self.tokenizer.pieces(example.tokens[trained]),
                "target": self.tokenizer.pieces(targets),
                "loss": (-own).tolist(),
                "probability": np.exp(own).tolist(),
                "rank": (1 + (log_probabilities > own[:, None]).sum(axis=1)).tolist(),
            }
        )

    def score(self, context: str, continuation: str) -> Score:
        """The log-probability of a continuation. The two are encoded jointly and then split, with spaces at the end of
        the context counted to the continuation, as lm-evaluation-harness does."""
        stripped = context.rstrip()
        context, continuation = stripped, context[len(stripped) :] + continuation
        if self._encoder_decoder:
            self._need(TextToText, Prefix)
            read, said = self._ended(context), np.array(self.tokenizer.encode(continuation), np.int32)
            example = objectives.join(read, said, self._vocabulary.bos or 0)
            places = np.arange(len(said))
        else:
            self._need(Causal, Prefix)
            before = len(self._begun(context))
            whole = self._begun(context + continuation)
            if before == 0:
                raise InputError("the first token has no context: this tokenizer has none that begins a document")
            example = objectives.reading(whole[:-1], both_sides=False)._replace(targets=whole[1:])
            places = np.arange(before - 1, len(whole) - 1)
        log_probabilities = _log_softmax(self._logits([example])[0, places])
        targets = example.targets[places]
        own = log_probabilities[np.arange(len(targets)), targets]
        greedy = bool((log_probabilities.argmax(axis=1) == targets).all())
        return Score(self.tokenizer.pieces(targets), own, greedy)

    def next_tokens(self, prompt: str, count: int = 5) -> list[Candidate]:
        """The most probable next tokens."""
        self._need(Causal, Prefix)
        row = self._begun(prompt)
        scores = self._logits([objectives.reading(row, both_sides=False)])[0, len(row) - 1]
        return self._candidates(scores, count)

    def generate(
        self, prompt: str | Sequence[str], sampling: Sampling | None = None, samples: int = 1
    ) -> str | list[Any]:
        """Continues a prompt, or answers an input (TextToText). A list of prompts gives a list; more than one of
        `samples` gives a list for each prompt."""
        objective = self._need(Causal, Prefix, TextToText)
        sampling = sampling or Sampling()
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [self._prompt(text, objective)._replace(sample=n) for text in texts for n in range(samples)]
        rows = self._generate(prompts, sampling)
        said = [cut(self.tokenizer.decode(row), sampling.stop) for row in rows]
        grouped = [said[n : n + samples] if samples > 1 else said[n] for n in range(0, len(said), samples)]
        return grouped[0] if isinstance(prompt, str) else grouped

    def fill(self, text: str, count: int = 5) -> list[list[Candidate]]:
        """For each `[MASK]` of the text its most probable tokens."""
        self._need(Masked)
        if MASK not in text:
            raise InputError(f"there is no {MASK} in {text!r}")
        *before, last = text.split(MASK)
        parts = [self.tokenizer.encode(part) for part in (*map(self._before_gap, before), last)]
        mask = self.tokenizer.mask
        ids = parts[0] + [i for part in parts[1:] for i in (mask, *part)]
        row = self._framed(np.array(ids, np.int32))
        scores = self._logits([objectives.reading(row, both_sides=True)])[0]
        return [self._candidates(scores[place], count) for place in np.flatnonzero(row == mask)]

    def infill(self, left: str, right: str, sampling: Sampling | None = None) -> str:
        """What stands between two texts, through a sentinel, as span corruption trained it."""
        self._need(SpanCorruption)
        sampling = sampling or Sampling()
        sampling = replace(sampling, least=max(1, sampling.least))  # no span is empty
        first, *others = self._vocabulary.sentinels
        between = [*self.tokenizer.encode(self._before_gap(left)), first, *self.tokenizer.encode(right)]
        read = np.array(between + self._end, np.int32)
        prompt = Prompt([*read, first], seen_by_all=len(read))
        if self._encoder_decoder:
            prompt = Prompt([self._vocabulary.bos or 0, first], source=read.tolist())
        return self.tokenizer.decode(self._generate([prompt], sampling, others)[0])

    def attention(self, text: str, objective: str | None = None) -> np.ndarray:
        """The attention weights of a text as a whole document, float32 `[layer, head, query, key]`; of an
        encoder-decoder, those of the encoder."""
        row = self._document(text)
        masked = not isinstance(self._objective(objective), Causal | Prefix)
        stack = "encoder" if self._encoder_decoder else "decoder"
        example = objectives.reading(row, masked)
        inside = _inside(self.config, self.params, self._batch([example._replace(source=row)]))
        weights = inside[stack]["layers"]["attention"]["attention"]
        return np.asarray(weights[:, 0, :, : len(row), : len(row)])

    @property
    def _encoder_decoder(self) -> bool:
        return self.config.encoder_depth > 0

    @property
    def _vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    @property
    def _end(self) -> list[int]:
        return [] if self.tokenizer.eos is None else [self.tokenizer.eos]

    def _before_gap(self, text: str) -> str:
        """Without a space at its end, where a space belongs to the word after it: then what fills the gap brings it."""
        pieces = self.tokenizer.pieces(self.tokenizer.encode("a b"))
        return text.removesuffix(" ") if pieces[-1].startswith(" ") else text

    def _begun(self, text: str) -> np.ndarray:
        begin = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        return np.array(begin + self.tokenizer.encode(text), np.int32)

    def _ended(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text) + self._end, np.int32)

    def _framed(self, ids: np.ndarray) -> np.ndarray:
        begin = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        return np.array([*begin, *ids, *self._end], np.int32)

    def _document(self, text: str) -> np.ndarray:
        """As documents are in training."""
        return self._framed(np.array(self.tokenizer.encode(text), np.int32))

    def _objective(self, name: str | None) -> Objective:
        known = {objective.name: objective for objective in self.objectives}
        if name is not None and name not in known:
            raise InputError(f"the model was not trained with {name!r}; it was with {', '.join(known)}")
        return known[name] if name else self.objectives[0]

    def _need(self, *kinds: type[Kind]) -> Kind:
        """The first objective of one of these kinds."""
        for objective in self.objectives:
            if isinstance(objective, kinds):
                return objective
        can = ", ".join(f"{o.name} ({type(o).__name__})" for o in self.objectives)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"this needs a model trained with {wanted}; this one was trained with {can}")

    def _prompt(self, text: str, objective: Stream) -> Prompt:
        if isinstance(objective, Causal):
            return Prompt(self._begun(text).tolist())
        prefix = objective.prefix if isinstance(objective, TextToText) else ""
        read = self._ended(prefix + text) if isinstance(objective, TextToText) else self._begun(text)
        if self._encoder_decoder:
            return Prompt([self._vocabulary.bos or 0], source=read.tolist())
        return Prompt(read.tolist(), seen_by_all=len(read))

    def _generate(self, prompts: list[Prompt], sampling: Sampling, ends: Sequence[int] = ()) -> list[list[int]]:
        ends = [*self._end, *ends]
        return generate(self.config, self.params, self.tokenizer, prompts, sampling, ends)

    def _logits(self, examples: Sequence[Example]) -> np.ndarray:
        return np.asarray(_logits(self.config, self.params, self._batch(examples)))

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """One example a row, padded to one of few lengths."""
        length = bucket(max(len(example.tokens) for example in examples))
        source = None
        if self._encoder_decoder:
            source = bucket(max(len(example.source) for example in examples if example.source is not None))
        return objectives.stack([objectives.row([example], length, source) for example in examples])

    def _candidates(self, scores: np.ndarray, count: int) -> list[Candidate]:
        probabilities = np.exp(_log_softmax(scores))
        best = np.argsort(-probabilities)[:count]
        pieces = self.tokenizer.pieces(best)
        return [Candidate(piece, float(probabilities[i])) for piece, i in zip(pieces, best, strict=True)]


def load(path: str) -> LanguageModel:
    """Loads a run folder, a Hugging Face folder or hub name, or a GGUF file.

    Raises:
      InputError: if it is none of these, is damaged, or has a feature that the stack does not have.
    """
    folder = Path(path).expanduser()
    if (folder / "experiment.json").exists():
        experiment = config.load(folder / "experiment.json")
        here = SingleDeviceSharding(jax.devices()[0])
        shapes = jax.eval_shape(partial(models.init, experiment.model), jax.random.key(0))
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        params = checkpoint.restore_params(folder, like)
        return LanguageModel(
            experiment.model, params, tokenizers.load(str(folder / "tokenizer")), experiment.objectives
        )
    if folder.is_dir() and (folder / "checkpoints").exists():
        raise InputError(f"{folder} has checkpoints but no experiment.json: it is not a whole run folder")
    model, params, tokenizer = interop.load(path)
    return LanguageModel(model, params, tokenizer, trained_with(model, tokenizer))


def trained_with(model: Model, tokenizer: Tokenizer) -> tuple[Objective, ...]:
    """What a published architecture was trained with."""
    if model.encoder_depth:
        return (SpanCorruption(), TextToText()) if tokenizer.sentinels else (TextToText(),)
    return (Masked(),) if model.head_transform else (Causal(),)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


_logits = jax.jit(models.logits, static_argnums=0)
_inside = jax.jit(models.inside, static_argnums=0)
