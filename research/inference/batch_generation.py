"""What a model writes after many contexts: those of about the same length together."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from research.config import Model
from research.inference import generation
from research.inference.generation import Sampling
from research.inference.prompting import PromptFormat, continuation_prompt
from research.inference.requests import Generation
from research.models import Params
from research.sharding import Layout

BATCH = 16  # contexts at once


class GeneratedBatch(NamedTuple):
    """What one batch completed."""

    texts: list[tuple[int, str]]  # with the number of the request
    share: float  # of all requests that are now done


def generate(
    model: Model,
    params: Params,
    prompt_format: PromptFormat,
    requests: Sequence[Generation],
    layout: Layout | None = None,
) -> Iterator[GeneratedBatch]:
    """The texts of the requests, in the order in which they are ready. `layout` as in `generation.generate`.

    Raises:
      InputError: if what is to be written is longer than the model.
    """
    alike: dict[Sampling, list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        alike[request.sampling].append(number)
    done, tokenizer = 0, prompt_format.tokenizer
    ends = prompt_format.objective.ends(tokenizer.vocabulary)
    for sampling, numbers in alike.items():
        prompts = {
            number: continuation_prompt(prompt_format, requests[number].context, sampling.tokens).prompt
            for number in numbers
        }
        numbers.sort(key=lambda number: (len(prompts[number].source or ()), len(prompts[number].tokens)))
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            given = [prompts[number] for number in part]
            rows = generation.generate(model, params, tokenizer, given, sampling, ends, layout)
            texts = [generation.text(tokenizer, *each) for each in zip(given, rows, strict=True)]
            done += len(part)
            cut = [generation.cut(text, sampling.stop) for text in texts]
            yield GeneratedBatch(list(zip(part, cut, strict=True)), done / len(requests))
