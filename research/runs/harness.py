"""Our checkpoints as the model `research` of lm-evaluation-harness (extra `harness`), which looks for models in its own
package alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import lm_eval.models  # noqa: F401 the harness' own models, which registering one here would hide
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from research.errors import InputError
from research.inference.generation import Sampling
from research.inference.requests import Continuation, Generation, Rolling, Scorable, Score, name
from research.runs import loading

NEW_TOKENS = 256  # the harness' default for a task that does not say


@register_model("research")
class Research(LM):
    """A run folder, a Hugging Face folder or a GGUF file.

    Args:
      checkpoint: its path.
      prompt_format: ask as this objective; None: the preferred one of those that the model was trained with.
      length: places that a request may take; None: as many as the model has positions.
      batch_size, max_batch_size, device: the harness always gives these; batches and devices are chosen here.
    """

    def __init__(
        self,
        checkpoint: str,
        prompt_format: str | None = None,
        length: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.model = loading.load(checkpoint)
        self.prompt_format = self.model.prompt_formats(prompt_format, length)[0]

    @property
    def tokenizer_name(self) -> str:
        return self.model.tokenizer.digest

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        scores = self._scores([Continuation(*request.args) for request in requests])
        return [(score.log_probability, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        return [score.log_probability for score in self._scores([Rolling(*request.args) for request in requests])]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        asked = [Generation(context, _sampling(settings)) for context, settings in (one.args for one in requests)]
        self._must_answer(asked)
        found = dict(_flat(done.texts for done in self.model.generate_requests(self.prompt_format, asked)))
        return [found[number] for number in range(len(asked))]

    def _scores(self, requests: Sequence[Scorable]) -> list[Score]:
        self._must_answer(requests)
        found = dict(_flat(done.scores for done in self.model.score_requests(self.prompt_format, requests)))
        return [found[number] for number in range(len(requests))]

    def _must_answer(self, requests: Sequence[Scorable | Generation]) -> None:
        for request in requests:
            if not self.prompt_format.can(request):
                asked = self.prompt_format.objective.name
                raise InputError(f"asked as {asked}, the model has no answer to a {name(request)}")


def _flat(parts: Iterable[Iterable[Any]]) -> Iterable[Any]:
    return (one for part in parts for one in part)


def _sampling(settings: dict[str, Any]) -> Sampling:
    until = settings.get("until") or ()
    sampled = settings.get("do_sample", False)
    return Sampling(
        tokens=settings.get("max_gen_toks", NEW_TOKENS),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_k=settings.get("top_k", 0),
        top_p=settings.get("top_p", 1.0),
        stop=(until,) if isinstance(until, str) else tuple(filter(None, until)),  # an empty one ends nothing there
    )
