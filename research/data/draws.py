"""Random choices that are the same on every machine and in every version of Python, for data made on the spot."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())
OPTIONS = 4


class Draw:
    """Random choices made of `random.Random.random` alone, the one method whose sequence Python guarantees."""

    def __init__(self, *key: Any) -> None:
        self._random = random.Random("/".join(map(str, key)))

    def below(self, stop: int) -> int:
        """An integer from 0 to `stop` - 1."""
        return int(self._random.random() * stop)

    def one(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Any], count: int) -> list[Any]:
        """`count` of the items, in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def shuffled(self, text: str) -> str:
        return "".join(self.sample(text, len(text)))

    def options(self, right: Any, wrong: Callable[[], Any], count: int = OPTIONS) -> dict[str, Any]:
        """`right` at a random place among different wrong options, `count` in all."""
        others: list[Any] = []
        while len(others) < count - 1:
            other = wrong()
            if other != right and other not in others:
                others.append(other)
        gold = self.below(count)
        return {"options": [*others[:gold], right, *others[gold:]], "gold": gold}
