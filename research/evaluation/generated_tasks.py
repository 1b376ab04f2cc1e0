"""Tasks that need no file: records made on the spot, the same ones on every machine (except `python_docs`, which reads
what this Python carries). Wrong options have the length of the right one, so that length gives nothing away."""

import re
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from research.data import abilities, python_docs
from research.data.draws import OPTIONS, WORDS, Draw
from research.errors import InputError

MOST = {"count": 1_000_000, "digits": 100, "length": 1000}  # of the arguments


def arithmetic(operation: str, digits: int, count: int) -> list[dict[str, Any]]:
    """`a` plus, minus or times `b`; wrong results differ in one digit. Differences are positive."""
    draw = Draw("arithmetic", operation, digits)
    compute = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}[operation]
    records = []
    for _ in range(count):
        a, b = (10 ** (digits - 1) + draw.below(9 * 10 ** (digits - 1)) for _ in range(2))
        a, b = (max(a, b), min(a, b)) if operation == "minus" else (a, b)
        right = str(compute(a, b))

        def wrong(right: str = right) -> str:
            place = draw.below(len(right))
            digit = draw.one("123456789" if place == 0 and len(right) > 1 else "0123456789")
            return right[:place] + digit + right[place + 1 :]

        records.append({"a": a, "b": b, **draw.options(right, wrong)})
    return records


def modular(largest: int, count: int) -> list[dict[str, Any]]:
    """(`a` + `b`) mod `m`, for m up to `largest` <= 10, so that a result is one digit."""
    draw = Draw("modular", largest)
    records = []
    for _ in range(count):
        m = 5 + draw.below(largest - 4)
        a, b = draw.below(m), draw.below(m)
        residues = list(range(m))
        made = draw.options((a + b) % m, partial(draw.one, residues))
        records.append({"a": a, "b": b, "m": m, **made, "options": [str(option) for option in made["options"]]})
    return records


def unscramble(count: int, keep_ends: bool) -> list[dict[str, Any]]:
    """`scrambled` letters of a word, with the first and last kept or not; wrong options are words of its length."""
    draw = Draw("unscramble", keep_ends)
    records = []
    for _ in range(count):
        word = draw.one(WORDS)
        scrambled = word
        while scrambled == word:
            first, middle, last = (word[0], word[1:-1], word[-1]) if keep_ends else ("", word, "")
            scrambled = first + draw.shuffled(middle) + last
        others = [other for other in WORDS if len(other) == len(word) and sorted(other) != sorted(word)]
        records.append({"scrambled": scrambled, **draw.options(word, partial(draw.one, others))})
    return records


def reversal(count: int) -> list[dict[str, Any]]:
    """A `word`, to be spelled backwards; wrong options are the same letters in other orders."""
    draw = Draw("reversal")
    words = [word for word in WORDS if len(set(word)) > 3 and word != word[::-1]]
    records = []
    for _ in range(count):
        word = draw.one(words)
        wrong = draw.options(word[::-1], partial(draw.shuffled, word))
        records.append({"word": word, **wrong})
    return records


def copying(length: int, count: int) -> list[dict[str, Any]]:
    """`shown`: random words of one length, then the same again but for the last, which is to be found among them."""
    draw = Draw("copying", length)
    records = []
    for _ in range(count):
        letters = len(draw.one(WORDS))
        words = draw.sample([word for word in WORDS if len(word) == letters], length)
        shown = " ".join(words + words[:-1])
        records.append({"shown": shown, **draw.options(words[-1], partial(draw.one, words))})
    return records


def docs_words(place: str, count: int) -> list[dict[str, Any]]:
    """Sentences from held-out Python documentation without their last word (`place` "last") or one inside ("middle"):
    `left`, `right`, and four words of which one was there. The documents are the last fiftieth of the source
    `python-docs`: held out by every run that holds out at least that fraction."""
    documents = list(python_docs.documents())
    sentences = []
    for name, text in documents[-(len(documents) // 50) :]:
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.:])\s+", " ".join(paragraph.split())):
                words = sentence.split(" ")
                number = len(words) - 1 if place == "last" else len(words) // 2
                if 8 <= len(words) <= 40 and (match := re.fullmatch(r"([A-Za-z]{3,})[.:]?", words[number])):
                    left, after = " ".join(words[:number]), words[number][match.end(1) :]
                    right = " ".join([after, *words[number + 1 :]])
                    sentences.append({"document": name, "left": left, "word": match[1], "right": right})
    draw = Draw("docs_words", place)
    sentences = draw.sample(sentences, min(count, len(sentences)))
    by_length: dict[int, list[str]] = {}
    for sentence in sentences:
        by_length.setdefault(len(sentence["word"]), []).append(sentence["word"])
    chosen = [sentence for sentence in sentences if len(set(by_length[len(sentence["word"])])) >= OPTIONS]
    return [{**one, **draw.options(one["word"], partial(draw.one, by_length[len(one["word"])]))} for one in chosen]


def ability(name: str, size: int, count: int) -> list[dict[str, Any]]:
    """Questions of an ability (`research/data/abilities.py`) that no training stream has: `question`, and options of
    which one is right."""
    draw = Draw("ability", name, size, "options")
    known = abilities.find(name, size)
    return [
        {"question": one.text, **draw.options(one.answer, partial(known.wrong, draw, one.answer), known.options)}
        for one in abilities.held_out_questions(name, size, count)
    ]


def _bounded(function: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    """The generator with its numbers checked first."""

    @wraps(function)
    def generate(**arguments: Any) -> list[dict[str, Any]]:
        for name, most in MOST.items():
            value = arguments.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InputError(f"generate {function.__name__}: {name} {value!r} is not between 1 and {most:,}")
        return function(**arguments)

    return generate


GENERATORS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    function.__name__: _bounded(function)
    for function in (arithmetic, modular, unscramble, reversal, copying, docs_words, ability)
}
