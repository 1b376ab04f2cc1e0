"""Our checkpoints as a model of lm-evaluation-harness, which brings its own tasks (extra `harness`):

    python -m research.evaluation.harness run --model research --model_args checkpoint=runs/quickstart --tasks …

are the arguments of the command `lm_eval`, which does not look for models outside of its package by itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from research import lm, runtime
from research.errors import InputError
from research.evaluation import scoring
from research.evaluation.asking import Manner, manners
from research.evaluation.generation import Sampling, cut
from research.evaluation.requests import Continuation, Rolling, Scorable, Score

PROMPTS = 16  # generated at once
NEW_TOKENS = 256  # the harness' default for a task that does not say


@register_model("research")
class Research(LM):
    """A run folder, a Hugging Face folder or a GGUF file.

    Args:
      checkpoint: its path.
      manner: ask as this objective; None: the preferred one of those that the model was trained with.
      length: places that a request may take; None: as many as the model has positions.
      batch_size, max_batch_size, device: the harness always gives these; batches and devices are chosen here.
    """

    def __init__(
        self,
        checkpoint: str,
        manner: str | None = None,
        length: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        runtime.start()
        self.model = lm.load(checkpoint)
        known = {objective.name: objective for objective in manners(self.model.objectives)}
        if manner is not None and manner not in known:
            raise InputError(f"manner {manner}: the model can be asked as {', '.join(known)}")
        objective = known[manner] if manner else next(iter(known.values()))
        config = self.model.config
        places = int(length) if length else config.max_positions - config.position_offset
        self.manner = Manner(objective, self.model.tokenizer, places, places if config.encoder_depth else None)

    @property
    def tokenizer_name(self) -> str:
        return self.model.tokenizer.digest

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        scores = self._scores([Continuation(*request.args) for request in requests])
        return [(score.log_probability, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        return [score.log_probability for score in self._scores([Rolling(*request.args) for request in requests])]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        out = [""] * len(requests)
        alike: dict[Sampling, list[tuple[str, int]]] = defaultdict(list)
        for number, request in enumerate(requests):
            context, settings = request.args
            alike[_sampling(settings)].append((context, number))
        for sampling, prompts in alike.items():
            prompts.sort(key=lambda prompt: len(prompt[0]))
            for start in range(0, len(prompts), PROMPTS):
                part = prompts[start : start + PROMPTS]
                texts = self.model.generate([self._fitting(context, sampling) for context, _ in part], sampling)
                for (_, number), text in zip(part, texts, strict=True):
                    out[number] = cut(text, sampling.stop)
        return out

    def _fitting(self, context: str, sampling: Sampling) -> str:
        tokens = self.model.tokenizer.encode(context)
        room = self.manner.length - sampling.tokens - len(self.manner.bos)
        return context if len(tokens) <= room else self.model.tokenizer.decode(tokens[-room:])

    def _scores(self, requests: Sequence[Scorable]) -> list[Score]:
        found = dict(_flat(done.scores for done in scoring.score(self.model, self.manner, requests)))
        missing = next((requests[number] for number, score in found.items() if score is None), None)
        if missing is not None:
            raise InputError(
                f"asked as {self.manner.objective.name}, the model cannot score a {type(missing).__name__}"
            )
        return [score for number in range(len(requests)) if (score := found[number]) is not None]


def _flat(parts: Iterable[Iterable[Any]]) -> Iterable[Any]:
    return (one for part in parts for one in part)


def _sampling(settings: dict[str, Any]) -> Sampling:
    until = settings.get("until", ())
    sampled = settings.get("do_sample", False)
    return Sampling(
        tokens=settings.get("max_gen_toks", NEW_TOKENS),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_k=settings.get("top_k", 0),
        top_p=settings.get("top_p", 1.0),
        stop=(until,) if isinstance(until, str) else tuple(until),
    )


if __name__ == "__main__":
    cli_evaluate()
