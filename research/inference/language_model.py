"""`LanguageModel`: a trained model with its tokenizer, for notebooks and scripts.

    lm = research.load("runs/quickstart")            # or a Hugging Face folder or name, or a GGUF file
    lm.token_losses("Welcome to New York Zoo")       # a table: token, target, loss, probability, rank
    lm.score("Welcome to New York", " City")         # log-probabilities, and whether greedy decoding would say so
    lm.generate("Return the")                        # a continuation
    lm.fill("Return the [MASK] of the list.")        # candidates for a mask
    lm.infill("Return the ", " of the list.")        # a span
    lm.attention("I love New York")                  # [layer, head, query, key]
    lm.inside("I love New York")                     # queries, keys, values and the residual stream too

What a model can do follows from the objectives that it was trained with. Where several of them can do it, the first
one does, unless another is named.
"""

import re
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
from research.inference import generation
from research.inference.generation import Prompt, Sampling, bucket
from research.inference.table import Table
from research.models import Params
from research.objectives import Batch, Example, Vocabulary, with_mode
from research.sharding import gather_to_host
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
class Inside:
    """What happens inside a model while it reads; float32, without padding."""

    tokens: list[str]
    attention: np.ndarray  # [layer, head, query, key]
    query: np.ndarray  # [layer, head, place, head_width]; turned, where positions are rotary
    key: np.ndarray  # [layer, kv_head, place, head_width]; likewise
    value: np.ndarray  # [layer, kv_head, place, head_width]
    residual: np.ndarray  # [layer, place, width]: the stream after each layer


@dataclass(frozen=True)
class LanguageModel:
    """A model, its parameters, its tokenizer, and what it was trained to do."""

    config: Model  # resolved
    params: Params
    tokenizer: Tokenizer
    objectives: tuple[Objective, ...]

    def logits(self, texts: Sequence[str], objective: str | None = None) -> list[np.ndarray]:
        """Float32 `[tokens, vocabulary]` for each text as a whole document, as an objective reads it: of the next token
        (causal, prefix) or of the token itself (masked)."""
        if self._encoder_decoder:
            raise InputError("an encoder-decoder reads an input and an output: use token_losses or score")
        chosen = self._need(Causal, Prefix, Masked, name=objective)
        rows = [self._document(text) for text in texts]
        scores = self._logits([self._reading(chosen, row) for row in rows])
        mode = chosen.mode is not None
        return [scores[number, mode : mode + len(row)] for number, row in enumerate(rows)]

    def example(
        self, text: str, objective: str | None = None, key: tuple[int, ...] = (0,), answer: str | None = None
    ) -> Example:
        """A text as one of the model's objectives shows it in training; arguments as of `token_losses`."""
        chosen = self._objective(objective)
        parts: tuple[np.ndarray, ...] = (self._document(text),)
        if isinstance(chosen, TextToText):
            if answer is None:
                raise InputError(f"{chosen.name!r} is text to text: give its output as `answer`")
            parts = self._input(chosen, text), np.array(self.tokenizer.encode(answer) + self._end, np.int32)
        return objectives.example(chosen, parts, key, self._vocabulary, self._encoder_decoder)

    def token_losses(
        self, text: str, objective: str | None = None, key: tuple[int, ...] = (0,), answer: str | None = None
    ) -> Table:
        """What one of the model's objectives makes of a text: a row for each place that it trains.

        Args:
          text: a whole document; for TextToText, the input.
          objective: its name; None: the first one.
          key: decides what is hidden.
          answer: for TextToText, the output.

        Returns:
          Columns "read", "target", "loss" (nats), "probability" and "rank" (1: the most probable token).
        """
        example = self.example(text, objective, key, answer)
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

    def score(self, context: str, continuation: str, objective: str | None = None) -> Score:
        """The log-probability of a continuation, or of an answer (TextToText). Context and continuation are encoded
        jointly and then split, with spaces at the end of the context counted to the continuation, as
        lm-evaluation-harness does; an answer is a text of its own."""
        chosen = self._need(Causal, Prefix, TextToText, name=objective)
        if isinstance(chosen, TextToText):
            inputs, said = self._input(chosen, context), np.array(self.tokenizer.encode(continuation), np.int32)
        else:
            inputs = self._input(chosen, context.rstrip())
            said = self._input(chosen, context + continuation)[len(inputs) :]
        if len(inputs) == 0 or len(said) == 0:
            raise InputError(
                f"{(context, continuation)}: neither may be without tokens, and no begin of a document helps"
            )
        log_probabilities = _log_softmax(self._last(self._reading(chosen, inputs, said[:-1]), len(said)))
        own = log_probabilities[np.arange(len(said)), said]
        return Score(self.tokenizer.pieces(said), own, bool((log_probabilities.argmax(axis=1) == said).all()))

    def next_tokens(self, prompt: str, count: int = 5, objective: str | None = None) -> list[Candidate]:
        """The most probable next tokens, or the first ones of an answer (TextToText)."""
        chosen = self._need(Causal, Prefix, TextToText, name=objective)
        return self._candidates(self._last(self._reading(chosen, self._input(chosen, prompt)), 1)[0], count)

    def generate(
        self,
        prompt: str | Sequence[str],
        sampling: Sampling | None = None,
        samples: int = 1,
        objective: str | None = None,
    ) -> str | list[Any]:
        """Continues a prompt, or answers an input (TextToText). A list of prompts gives a list; more than one of
        `samples` gives a list for each prompt."""
        chosen = self._need(Causal, Prefix, TextToText, name=objective)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [self._prompt(chosen, text)._replace(sample=n) for text in texts for n in range(samples)]
        said = self._generate(prompts, sampling or Sampling())
        grouped = [said[n : n + samples] if samples > 1 else said[n] for n in range(0, len(said), samples)]
        return grouped[0] if isinstance(prompt, str) else grouped

    def fill(self, text: str, count: int = 5) -> list[list[Candidate]]:
        """For each `[MASK]` of the text its most probable tokens."""
        chosen = self._need(Masked)
        if MASK not in text:
            raise InputError(f"there is no {MASK} in {text!r}")
        *before, last = text.split(MASK)
        first, *others = (self.tokenizer.encode(part) for part in (*map(self._before_gap, before), last))
        row = self._framed([*first, *(i for part in others for i in (self._mask, *part))])
        example = self._reading(chosen, row)
        scores = self._logits([example])[0]
        return [self._candidates(scores[place], count) for place in np.flatnonzero(example.tokens == self._mask)]

    def infill(self, left: str, right: str, sampling: Sampling | None = None, objective: str | None = None) -> str:
        """What stands between two texts: through a sentinel, as span corruption trained it. A model that was trained
        on masks alone fills `sampling.tokens` of them (one, if None), each time the one of which it is surest."""
        chosen = self._need(SpanCorruption, Masked, name=objective)
        kept = self._before_gap(left)
        before, after = self.tokenizer.encode(kept), self.tokenizer.encode(right)
        if isinstance(chosen, Masked):
            said = self._unmask(chosen, before, sampling.tokens if sampling else 1, after)
            return said.removeprefix(left[len(kept) :])
        sampling = sampling or Sampling()
        sampling = replace(sampling, least=max(1, sampling.least))  # no span is empty
        first, *others = self._vocabulary.sentinels
        inputs = np.array([*before, first, *after, *self._end], np.int32)
        (said,) = self._generate([_prompt(self._reading(chosen, inputs, [first]), before)], sampling, others)
        return said.removeprefix(left[len(kept) :])

    def attention(self, text: str, objective: str | None = None) -> np.ndarray:
        """The attention weights of a text as a whole document, float32 `[layer, head, query, key]`; of an
        encoder-decoder, those of the encoder. Where the objective has a mode, its token comes first."""
        return self.inside(text, objective).attention

    def inside(self, text: str, objective: str | None = None) -> Inside:
        """What happens inside while a text is read as a whole document; see `attention`."""
        return self.look(self._reading(self._objective(objective), self._document(text)))

    def look(self, example: Example) -> Inside:
        """What happens inside while an example is read; of an encoder-decoder, inside the encoder."""
        stack = "encoder" if self._encoder_decoder else "decoder"
        layers = _inside(self.config, self.params, self._batch([example]))[stack]["layers"]
        tokens = example.tokens if example.source is None else example.source
        n, own = len(tokens), {name: gather_to_host(array[:, 0]) for name, array in layers["attention"].items()}
        query, key, value = (own[name][:, :n].swapaxes(1, 2) for name in ("queries", "keys", "values"))
        residual = gather_to_host(layers["residual"][:, 0, :n])
        return Inside(self.tokenizer.pieces(tokens), own["attention"][:, :, :n, :n], query, key, value, residual)

    def lens(self, example: Example) -> np.ndarray:
        """The logits that the residual stream after each layer would give, float32 `[layer, place, vocabulary]`; those
        after the last layer are the model's own."""
        if self._encoder_decoder:
            raise InputError("the lens reads models of one stack; this is an encoder-decoder")
        layers = _inside(self.config, self.params, self._batch([example]))["decoder"]["layers"]
        return gather_to_host(_read_out(self.config, self.params, layers["residual"][:, 0]))[:, : len(example.tokens)]

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
        return text if self._vocabulary.starts_word is None else text.removesuffix(" ")

    @property
    def _mask(self) -> int:
        assert self.tokenizer.mask is not None
        return self.tokenizer.mask

    def _begun(self, ids: Sequence[int]) -> np.ndarray:
        begin = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        return np.array([*begin, *ids], np.int32)

    def _framed(self, ids: Sequence[int]) -> np.ndarray:
        return self._begun([*ids, *self._end])

    def _document(self, text: str) -> np.ndarray:
        """As documents are in training."""
        return self._framed(self.tokenizer.encode(text))

    def _input(self, objective: Stream, text: str) -> np.ndarray:
        """What stands before the tokens that the objective predicts."""
        if isinstance(objective, TextToText):
            return self._document(objective.prefix + text)
        return self._begun(self.tokenizer.encode(text))

    def _reading(self, objective: Stream, inputs: np.ndarray, said: Sequence[int] | np.ndarray = ()) -> Example:
        """An input, and what is said already of its output, as the objective shows them; nothing is to be predicted."""
        if isinstance(objective, Causal | Masked):
            tokens = np.concatenate([inputs, np.array(said, np.int32)])
            example = objectives.reading(tokens, both_sides=isinstance(objective, Masked))
        else:
            start = (self._vocabulary.bos or 0) if self._encoder_decoder else None
            example = objectives.join(inputs, np.array([*said, 0], np.int32), start)
        return example if objective.mode is None else with_mode(example, self.tokenizer.modes[objective.mode])

    def _objective(self, name: str | None) -> Objective:
        known = {objective.name: objective for objective in self.objectives}
        if name is not None and name not in known:
            raise InputError(f"the model was not trained with {name!r}; it was with {', '.join(known)}")
        return known[name] if name else self.objectives[0]

    def _need(self, *kinds: type[Kind], name: str | None = None) -> Kind:
        """The named objective, or the first one that is of these kinds; earlier kinds are preferred."""
        usable = self.objectives if name is None else (self._objective(name),)
        for kind in kinds:
            for objective in usable:
                if isinstance(objective, kind):
                    return objective
        can = ", ".join(f"{o.name} ({type(o).__name__})" for o in usable)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"this needs a model trained with {wanted}; this one was trained with {can}")

    def _prompt(self, objective: Stream, text: str) -> Prompt:
        before = [] if isinstance(objective, TextToText) else self.tokenizer.encode(text)
        return _prompt(self._reading(objective, self._input(objective, text)), before)

    def _generate(self, prompts: list[Prompt], sampling: Sampling, ends: Sequence[int] = ()) -> list[str]:
        rows = generation.generate(self.config, self.params, self.tokenizer, prompts, sampling, [*self._end, *ends])
        texts = [generation.text(self.tokenizer, *each) for each in zip(prompts, rows, strict=True)]
        return [generation.cut(text, sampling.stop) for text in texts]

    def _unmask(self, objective: Masked, before: Sequence[int], masks: int, after: Sequence[int]) -> str:
        """Fills masks between two texts one by one."""
        example = self._reading(objective, self._framed([*before, *[self._mask] * masks, *after]))
        tokens = example.tokens.copy()
        places = np.flatnonzero(tokens == self._mask)
        ordinary = [i for i in range(self.tokenizer.size) if i not in self._vocabulary.special]
        for _ in range(masks):
            hidden = places[tokens[places] == self._mask]
            log_probabilities = _log_softmax(self._logits([example._replace(tokens=tokens)])[0, hidden])[:, ordinary]
            place, token = np.unravel_index(log_probabilities.argmax(), log_probabilities.shape)
            tokens[hidden[place]] = ordinary[token]
        return generation.text(self.tokenizer, Prompt([], before=before), tokens[places].tolist())

    def _logits(self, examples: Sequence[Example]) -> np.ndarray:
        return gather_to_host(_logits(self.config, self.params, self._batch(examples)))

    def _last(self, example: Example, count: int) -> np.ndarray:
        """The logits of the last places of an example, `[count, vocabulary]`."""
        length = len(example.tokens)
        return self._logits([example])[0, length - count : length]

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """One example a row, padded to one of few lengths."""
        most, longest = (
            generation.places(self.config),
            max(len(s) for e in examples for s in (e.tokens, e.source) if s is not None),
        )
        if most is not None and longest > most:
            raise InputError(f"{longest} tokens do not fit into the model's {most} positions")
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
    """Loads a run folder (RUN@STEP: a step that is not the last), a Hugging Face folder or hub name, or a GGUF file.

    Raises:
      InputError: if it is none of these, is damaged, or has a feature that the stack does not have.
    """
    path, step = run_folder(path)
    folder = Path(path).expanduser()
    if (folder / "experiment.json").exists():
        experiment = config.load(folder / "experiment.json")
        here = SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.eval_shape(partial(models.init, experiment.model), jax.random.key(0))
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        params = checkpoint.restore_params(folder, like, step)
        return LanguageModel(
            experiment.model, params, tokenizers.load(str(folder / "tokenizer")), experiment.objectives
        )
    if folder.is_dir() and (folder / "checkpoints").exists():
        raise InputError(f"{folder} has checkpoints but no experiment.json: it is not a whole run folder")
    model, params, tokenizer = interop.load(path)
    return LanguageModel(model, params, tokenizer, trained_with(model, tokenizer))


def run_folder(path: str) -> tuple[str, int | None]:
    """The folder and the step of RUN@STEP; any other path as it is, and None."""
    named = re.fullmatch(r"(.+)@(\d+)", path)
    return (named[1], int(named[2])) if named else (path, None)


def trained_with(model: Model, tokenizer: Tokenizer) -> tuple[Objective, ...]:
    """What a published architecture was trained with."""
    if model.encoder_depth:
        return (SpanCorruption(), TextToText()) if tokenizer.sentinels else (TextToText(),)
    return (Masked(),) if model.norm.embedding else (Causal(),)  # only BERT and its kin normalise their embeddings


def _prompt(example: Example, before: Sequence[int]) -> Prompt:
    """To go on with an example; `before` is what the new text follows."""
    source = None if example.source is None else example.source.tolist()
    return Prompt(example.tokens.tolist(), int((example.levels == 0).sum()), source, before)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


_logits = jax.jit(models.logits, static_argnums=0)
_inside = jax.jit(models.inside, static_argnums=0)
_read_out = jax.jit(models.read_out, static_argnums=0)
