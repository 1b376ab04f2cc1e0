"""What a model writes after many contexts: those of about the same length together."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from research.inference import generation
from research.inference.generation import Sampling
from research.inference.prompting import PromptFormat, begin
from research.inference.requests import Generation
from research.inference.scoring import Model

BATCH = 16  # contexts at once


class Written(NamedTuple):
    """What one batch completed."""

    texts: list[tuple[int, str]]  # with the number of the request
    share: float  # of all requests that are now done


def write(model: Model, manner: PromptFormat, requests: Sequence[Generation]) -> Iterator[Written]:
    """The texts of the requests, in the order in which they are ready.

    Raises:
      InputError: if what is to be written is longer than the model.
    """
    alike: dict[Sampling, list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        alike[request.sampling].append(number)
    done = 0
    for sampling, numbers in alike.items():
        prompts = {number: begin(manner, requests[number])[0] for number in numbers}
        numbers.sort(key=lambda number: (len(prompts[number].source or ()), len(prompts[number].tokens)))
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            given = [prompts[number] for number in part]
            stops = manner.tokenizer.stops
            rows = generation.generate(model.config, model.params, manner.tokenizer, given, sampling, stops)
            texts = [generation.text(manner.tokenizer, *each) for each in zip(given, rows, strict=True)]
            done += len(part)
            cut = [generation.cut(text, sampling.stop) for text in texts]
            yield Written(list(zip(part, cut, strict=True)), done / len(requests))
