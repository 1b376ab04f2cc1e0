"""`LanguageModel`: a trained model with its tokenizer, for notebooks and scripts.

    lm = research.load("runs/quickstart")            # or a Hugging Face folder or name, or a GGUF file
    lm.token_losses("Welcome to New York Zoo")       # a table: token, target, loss, probability, rank
    lm.score("Welcome to New York", " City")         # log-probabilities, and whether greedy decoding would say so
    lm.generate("Return the", tokens=20)             # a continuation
    lm.fill("Return the [MASK] of the list.")        # candidates for a mask
    lm.infill("Return the ", " of the list.")        # a span
    lm.attention("I love New York")                  # [layer, head, query, key]
    lm.inside("I love New York")                     # queries, keys, values and the residual stream too
    lm.run("I love New York", record="mlp/hidden")   # any named place of the forward pass, and what follows if it is
                                                     # edited: see `inference.edits` and docs/inside.md

What a model can do follows from the objectives that it was trained with. Where several of them can do it, the preferred
one does (`Objective.preference`), unless another is named.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from research.config import Model
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference import batch_generation, generation, inside, prompting, scoring, text_examples
from research.inference.batch_generation import GeneratedBatch
from research.inference.edits import Edit
from research.inference.generation import Prompt, Sampling, Settings
from research.inference.inside import ForwardPass, Inside, Measure
from research.inference.prompting import Prompted, PromptFormat
from research.inference.requests import Continuation, Generation, Scorable, Score
from research.inference.scoring import ScoredBatch
from research.inference.table import Table
from research.models import Params, size
from research.objectives import SHIPPED, Batch, Example, Objective, Request
from research.sharding import Layout, gather_to_host, logical_rules


@dataclass(frozen=True)
class TextScore(Score):
    """A score with the tokens of the text, as they are shown."""

    tokens: list[str] = field(kw_only=True)

    @property
    def total(self) -> float:
        """The log-probability of the whole text, nats."""
        return self.log_probability


@dataclass(frozen=True)
class Candidate:
    """A token for a mask."""

    token: str
    probability: float


@dataclass(frozen=True, repr=False)
class LanguageModel:
    """A model, its parameters, its tokenizer, and what it was trained to do."""

    config: Model  # resolved
    params: Params
    tokenizer: Tokenizer
    objectives: tuple[Objective, ...]
    # devices over which the parameters are split; None: they are on one, and scoring uses all, each with a copy
    layout: Layout | None = None

    def __repr__(self) -> str:
        model, heads, positions = self.config, self.config.attention, self.config.positions
        encoder = f"{model.encoder_depth} + " if model.encoder_depth else ""
        trained = ", ".join(f"{each.name} ({type(each).__name__})" for each in self.objectives)
        return "\n".join(
            (
                f"LanguageModel of {size(self.params):,} parameters",
                f"  layers: {encoder}{model.depth} of width {model.width}, MLP {model.mlp.width}",
                f"  attention: {heads.heads} heads of width {heads.head_width}, {heads.kv_heads} of keys and values",
                f"  tokens: {self.tokenizer.size:,}; rows of up to {positions.max_length - positions.offset:,}",
                f"  trained with: {trained}",
            )
        )

    def prompt_formats(self, objective: str | None = None, length: int | None = None) -> list[PromptFormat]:
        """How it can be asked, the preferred format first; see `prompting.prompt_formats`."""
        return prompting.prompt_formats(self.config, self.tokenizer, self.objectives, objective, length)

    def score_requests(
        self, prompt_format: PromptFormat, requests: Sequence[Scorable], forbidden: Sequence[int] = ()
    ) -> Iterator[ScoredBatch]:
        """Scores of many requests, in the order in which they are ready; see `scoring.score`."""
        return scoring.score(self.config, self.params, prompt_format, requests, forbidden, self.layout)

    def generate_requests(
        self, prompt_format: PromptFormat, requests: Sequence[Generation]
    ) -> Iterator[GeneratedBatch]:
        """Texts of many requests, in the order in which they are ready; see `batch_generation.generate`."""
        return batch_generation.generate(self.config, self.params, prompt_format, requests, self.layout)

    def logits(self, texts: Sequence[str], objective: str | None = None) -> list[np.ndarray]:
        """Float32 `[tokens, vocabulary]` for each text as a whole document, as an objective reads it: of the next token
        (causal, prefix) or of the token itself (masked)."""
        if self._encoder_decoder:
            raise InputError("an encoder-decoder reads an input and an output: use token_losses or score")
        chosen = self._that_answers("rolling", objective)
        rows = [text_examples.document(self.tokenizer, text) for text in texts]
        scores = self._logits([self._read(chosen, row) for row in rows])
        mode = chosen.mode is not None
        return [scores[number, mode : mode + len(row)] for number, row in enumerate(rows)]

    def example(
        self, text: str, objective: str | None = None, key: tuple[int, ...] = (0,), answer: str | None = None
    ) -> Example:
        """A text as one of the model's objectives shows it in training; arguments as of `token_losses`."""
        chosen = self._objective(objective)
        parts: tuple[np.ndarray, ...] = (text_examples.document(self.tokenizer, chosen.input_prefix + text),)
        if chosen.separate_texts:
            if answer is None:
                raise InputError(f"{chosen.name!r} has an input and an output: give its output as `answer`")
            parts = (*parts, np.array([*self.tokenizer.encode(answer), *self.tokenizer.vocabulary.end], np.int32))
        return chosen.example(parts, key, self.tokenizer.vocabulary, self._encoder_decoder)

    def token_losses(
        self, text: str, objective: str | None = None, key: tuple[int, ...] = (0,), answer: str | None = None
    ) -> Table:
        """What one of the model's objectives makes of a text: a row for each place that it trains.

        Args:
          text: a whole document, or an input (TextToText).
          objective: its name; None: the first one.
          key: decides what is hidden.
          answer: the output that belongs to an input.

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

    def score(self, context: str, continuation: str, objective: str | None = None) -> TextScore:
        """The log-probability of a continuation, or of an answer (TextToText), by the same path as `evaluate`: context
        and continuation are encoded jointly and then split, with space at the end of the context counted to the
        continuation; an answer is a text of its own; what is too long is cut off the context from the left. `kind` says
        whether the score is exact, or pseudo (Masked)."""
        how = self._format(self._that_answers("continuation", objective))
        request = Continuation(context, continuation)
        ((_, found),) = (one for done in self.score_requests(how, [request]) for one in done.scores)
        assert found is not None
        ids = prompting.encode(how, [request])[0].text
        return TextScore(**vars(found), tokens=self.tokenizer.pieces(ids))

    def next_tokens(self, prompt: str, count: int = 5, objective: str | None = None) -> list[Candidate]:
        """The most probable next tokens, or the first ones of an answer (TextToText)."""
        example = self._prompted(self._that_answers("generation", objective), prompt).example
        return self._candidates(self._logits([example])[0, len(example.tokens) - 1], count)

    def generate(
        self,
        prompt: str | Sequence[str],
        sampling: Sampling | None = None,
        samples: int = 1,
        objective: str | None = None,
        **settings: Unpack[Settings],
    ) -> str | list[Any]:
        """Continues a prompt, or answers an input (TextToText). A list of prompts gives a list; more than one of
        `samples` gives a list for each prompt. `settings` are fields of `sampling`: `tokens=20, temperature=0.7`."""
        if samples < 1:
            raise InputError(f"samples: {samples} must be at least 1")
        chosen = self._that_answers("generation", objective)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        read = [self._prompted(chosen, text).prompt for text in texts]
        prompts = [one._replace(sample=number) for one in read for number in range(samples)]
        said = self._generate(chosen, prompts, replace(sampling or Sampling(), **settings))
        grouped = [said[n : n + samples] if samples > 1 else said[n] for n in range(0, len(said), samples)]
        return grouped[0] if isinstance(prompt, str) else grouped

    def fill(self, text: str, count: int = 5, objective: str | None = None) -> list[list[Candidate]]:
        """For each `[MASK]` of the text its most probable tokens."""
        chosen = self._that_answers("fill", objective)
        if text_examples.MASK not in text:
            raise InputError(f"there is no {text_examples.MASK} in {text!r}")
        example = text_examples.with_masks(chosen, self.tokenizer, text, self._encoder_decoder)
        scores = self._logits([example])[0]
        return [self._candidates(scores[place], count) for place in np.flatnonzero(example.tokens == self._mask)]

    def infill(self, left: str, right: str, sampling: Sampling | None = None, objective: str | None = None) -> str:
        """What stands between two texts: through a sentinel, as span corruption trained it. A model that was trained
        on masks alone fills `sampling.tokens` of them (one, if None), each time the one of which it is surest."""
        chosen = self._that_answers("infill", objective)
        kept = text_examples.before_gap(self.tokenizer, left)
        if "fill" in chosen.answers:
            said = self._unmask(chosen, kept, sampling.tokens if sampling else 1, right)
        else:
            sampling = sampling or Sampling()
            sampling = replace(sampling, least=max(1, sampling.least))  # no span is empty
            prompted = prompting.infill_prompt(self._format(chosen), kept, right)
            (said,) = self._generate(chosen, [prompted.prompt], sampling)
        return said.removeprefix(left[len(kept) :])

    def read(self, text: str, objective: str | None = None) -> Example:
        """A text as a whole document, as an objective reads it with nothing hidden."""
        return self._read(self._objective(objective), text_examples.document(self.tokenizer, text))

    def run(
        self,
        texts: str | Example | Sequence[str | Example],
        record: str | Sequence[str] = (),
        edits: Sequence[Edit] = (),
        objective: str | None = None,
    ) -> ForwardPass:
        """One forward pass, watched and changed at named places.

        Args:
          texts: prompts, as they are read before a continuation or an answer; for a model that fills masks, documents
            with any number of `[MASK]`; or examples, as of `read`.
          record: names of places, or patterns of them: "residual", "attention/*".
          edits: what is put at which places (see `inference.edits`); all of them in the one pass.
          objective: as which a text is read; None: the preferred one.

        Raises:
          InputError: if a place, or what an edit says of it, is not in the model.
        """
        examples = self.examples(texts, objective)
        patterns = (record,) if isinstance(record, str) else record
        batch = self._batch(examples)
        with self._rules():
            return inside.run(self.config, self.params, self.tokenizer, batch, examples, patterns, edits)

    def sweep(
        self,
        texts: str | Example | Sequence[str | Example],
        edits: Sequence[Edit | Sequence[Edit]],
        measure: Measure,
        objective: str | None = None,
    ) -> np.ndarray:
        """What a measure (see `analysis.measures`) makes of each text after each of many edits by itself, or each of
        many lists of edits: `[edits, texts]`. They must have the same places and functions, and are computed together
        by one compiled program. The logits are those of the last token of a text, or of its first `[MASK]`."""
        examples = self.examples(texts, objective)
        several = [[each] if isinstance(each, Edit) else each for each in edits]
        batch, read = self._batch(examples, finely=True), text_examples.answer_places(self.tokenizer, examples)
        with self._rules():
            return inside.sweep(self.config, self.params, batch, examples, read, several, measure)

    def gradients(
        self,
        texts: str | Example | Sequence[str | Example],
        record: str | Sequence[str],
        measure: Measure,
        edits: Sequence[Edit] = (),
        objective: str | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What a measure makes of each text, `[text]`; what is recorded at some places after the edits, by name; and
        the derivative of the measure by that. See `sweep` and `run` for the arguments."""
        examples = self.examples(texts, objective)
        patterns = (record,) if isinstance(record, str) else record
        batch, read = self._batch(examples, finely=True), text_examples.answer_places(self.tokenizer, examples)
        with self._rules():
            return inside.gradients(self.config, self.params, batch, examples, read, patterns, measure, edits)

    def examples(self, texts: str | Example | Sequence[str | Example], objective: str | None = None) -> list[Example]:
        """Texts as `run` reads them."""
        several = [texts] if isinstance(texts, str | Example) else texts
        return [each if isinstance(each, Example) else self._asked(each, objective) for each in several]

    def attention(self, text: str, objective: str | None = None) -> np.ndarray:
        """The attention weights of a text as a whole document, float32 `[layer, head, query, key]`; of an
        encoder-decoder, those of the encoder. Where the objective has a mode, its token comes first."""
        return self.inside(text, objective).attention

    def inside(self, text: str, objective: str | None = None) -> Inside:
        """What happens inside while a text is read as a whole document; see `attention`."""
        return self.look(self.read(text, objective))

    def look(self, example: Example) -> Inside:
        """What happens inside while an example is read; of an encoder-decoder, inside the encoder."""
        with self._rules():
            return inside.look(self.config, self.params, self.tokenizer, self._batch([example]), example)

    def lens(self, example: Example) -> np.ndarray:
        """The logits that the residual stream after each layer would give, float32 `[layer, place, vocabulary]`; those
        after the last layer are the model's own."""
        if self._encoder_decoder:
            raise InputError("the lens reads models of one stack; this is an encoder-decoder")
        with self._rules():
            return inside.lens(self.config, self.params, self._batch([example]))[:, : len(example.tokens)]

    def _rules(self) -> AbstractContextManager[None]:
        """Rows of any number are on every device that has a part of the parameters."""
        return logical_rules(None if self.layout is None else self.layout.whole_batch)

    @property
    def _encoder_decoder(self) -> bool:
        return self.config.encoder_depth > 0

    @property
    def _mask(self) -> int:
        assert self.tokenizer.mask is not None
        return self.tokenizer.mask

    def _asked(self, text: str, objective: str | None) -> Example:
        """What is read before an answer: a prompt, or where nothing is generated a document with masks."""
        able = [each for each in self.objectives if "generation" in each.answers]
        if objective is not None or not able:
            chosen = self._objective(objective)
        else:
            chosen = min(able, key=lambda each: each.preference)
        if "generation" in chosen.answers:
            return self._prompted(chosen, text).example
        return text_examples.with_masks(chosen, self.tokenizer, text, self._encoder_decoder)

    def _read(self, objective: Objective, tokens: np.ndarray) -> Example:
        return objective.read(tokens, self.tokenizer.vocabulary, self._encoder_decoder)

    def _objective(self, name: str | None) -> Objective:
        known = {objective.name: objective for objective in self.objectives}
        if name is not None and name not in known:
            raise InputError(f"the model was not trained with {name!r}; it was with {', '.join(known)}")
        return known[name] if name else self.objectives[0]

    def _that_answers(self, request: Request, name: str | None = None) -> Objective:
        """The named objective, or the preferred one of those that answer such a request."""
        usable = self.objectives if name is None else (self._objective(name),)
        able = [objective for objective in usable if request in objective.answers]
        if not able:
            can = ", ".join(f"{o.name} ({type(o).__name__})" for o in usable)
            wanted = " or ".join(kind.__name__ for kind in SHIPPED if request in kind.answers)
            raise InputError(f"this needs a model trained with {wanted}; this one was trained with {can}")
        return min(able, key=lambda objective: objective.preference)

    def _format(self, objective: Objective) -> PromptFormat:
        return self.prompt_formats(objective.name)[0]

    def _prompted(self, objective: Objective, text: str) -> Prompted:
        return prompting.continuation_prompt(self._format(objective), text)

    def _generate(self, objective: Objective, prompts: list[Prompt], sampling: Sampling) -> list[str]:
        ends = objective.ends(self.tokenizer.vocabulary)
        rows = generation.generate(self.config, self.params, self.tokenizer, prompts, sampling, ends, self.layout)
        texts = [generation.text(self.tokenizer, *each) for each in zip(prompts, rows, strict=True)]
        return [generation.cut(text, sampling.stop) for text in texts]

    def _unmask(self, objective: Objective, left: str, masks: int, right: str) -> str:
        """Fills masks between two texts one by one."""
        before, after = self.tokenizer.encode(left), self.tokenizer.encode(right)
        example = self._read(objective, text_examples.framed(self.tokenizer, [*before, *[self._mask] * masks, *after]))
        tokens = example.tokens.copy()
        places = np.flatnonzero(tokens == self._mask)
        ordinary = [i for i in range(self.tokenizer.size) if i not in self.tokenizer.vocabulary.special]
        for _ in range(masks):
            hidden = places[tokens[places] == self._mask]
            log_probabilities = _log_softmax(self._logits([example._replace(tokens=tokens)])[0, hidden])[:, ordinary]
            place, token = np.unravel_index(log_probabilities.argmax(), log_probabilities.shape)
            tokens[hidden[place]] = ordinary[token]
        return generation.text(self.tokenizer, Prompt([], before=before), tokens[places].tolist())

    def _logits(self, examples: Sequence[Example]) -> np.ndarray:
        with self._rules():
            return gather_to_host(inside.logits(self.config, self.params, self._batch(examples)))

    def _batch(self, examples: Sequence[Example], finely: bool = False) -> Batch:
        return text_examples.batch(self.config, examples, finely)

    def _candidates(self, scores: np.ndarray, count: int) -> list[Candidate]:
        probabilities = np.exp(_log_softmax(scores))
        best = np.argsort(-probabilities)[:count]
        pieces = self.tokenizer.pieces(best)
        return [Candidate(piece, float(probabilities[i])) for piece, i in zip(pieces, best, strict=True)]


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
