"""Abilities with a known curriculum: questions with one right answer, made on the spot, of which a part is held out.

  abilities:NAME-SIZE[*RATE][,NAME-SIZE[*RATE]…]#COUNT        COUNT documents, each a question with its answer
  ability_pairs:NAME-SIZE[*RATE][,…]#COUNT                    the same as pairs of a question and an answer

RATE is how often an ability comes, relative to the others (1). `abilities:addition-3,recall-8*2#100000` is a source
like any other: an objective reads it beside text, at the objective's own rate, as documents (causal, masked, prefix,
span corruption) or as pairs (text to text, instruction).

SIZE is the largest that training shows; a training question has any size up to it. An eighth of all questions, chosen
by a hash, never appears in a training stream, whatever its abilities and rates: `held_out_questions` are those, at
exactly their SIZE. So a test asks for unseen operands, and with a larger SIZE than the stream's for unseen lengths.

The abilities, and what SIZE counts:
  addition         digits of each number: 47+58=105; neither a+b nor b+a of a test is in training
  multiplication   digits of each number: 47*58=2726
  modular          the modulus: 17+09%23=03 (Power et al. 2022)
  reversal         letters: Rabcd=dcba
  unscrambling     letters of a word, of a list of common words: Ulpepa=apple
  copying          letters: Cabcd=abcd (in-context copying, Olsson et al. 2022)
  recall           pairs of a letter and a digit, of which one is asked: Aa7k3q9?k=3 (associative recall)
  brackets         open brackets, to be closed in order: B([]{=})
  association      variables of a small causal world, each a copy or the negation (-) of another: what is seen of one
                   tells of another, up and down the arrows. W b=a c=-b, c is 0, what is a? Wb=a,c=-b;c0?a=1
  intervention     a variable is set, and those above it stay as they are: Wb=a,c=-b;a1!b0?a=1
  counterfactual   what was seen tells how the world is; there, what if a variable had been another? Wb=a,c=-b;c0~b0?c=1
  hashing          letters, of which the answer is a hash: Habcd=7. No model can learn it: a control

Association, intervention and counterfactual are the rungs of the ladder of causation (Pearl and Mackenzie 2018).
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase as LETTERS
from typing import NamedTuple

from research.data.draws import OPTIONS, WORDS, Draw
from research.data.records import DataSource, Record, SourceFile
from research.errors import InputError

FORMAT = 1  # raised when a stream changes
FORMS = {"abilities": 1, "ability_pairs": 2}  # and the parts of their records
HELD_OUT = 8  # one question of so many
DIGITS = "0123456789"
PAIRS = {"(": ")", "[": "]", "{": "}"}
MOST = 10_000_000  # documents
ATTEMPTS = 1000  # besides those for each question, after which there are too few


class Question(NamedTuple):
    """`text` ends where the answer begins; questions of one `key` are held out together."""

    text: str
    answer: str
    key: str


@dataclass(frozen=True)
class Ability:
    """How questions of a size are made, and what a wrong answer looks like."""

    make: Callable[[Draw, int], Question]  # of exactly this size
    wrong: Callable[[Draw, str], str]  # given the right one
    sizes: range  # that there can be
    least: int  # smallest size in training
    options: int = OPTIONS  # of a question with several answers to choose from


class Part(NamedTuple):
    """An ability of a stream."""

    name: str
    size: int
    rate: float


def open_abilities(name: str) -> DataSource:
    """A source of one of FORMS.

    Raises:
      InputError: if an ability is unknown, or a number is out of range.
    """
    form, parts, count = parse(name)
    records = partial(_records, name, form == "ability_pairs", parts, count)
    return DataSource(name, FORMS[form], (SourceFile(name, 0, f"format {FORMAT}", records),))


def parse(name: str) -> tuple[str, tuple[Part, ...], int]:
    """The form, the abilities and the number of documents of a source. Raises InputError as `open_abilities`."""
    form, _, rest = name.partition(":")
    listed, _, count = rest.rpartition("#")
    if not re.fullmatch(r"\d{1,9}", count) or not 1 <= int(count) <= MOST:
        raise InputError(f"data source {name!r}: it ends with #COUNT, a number of documents from 1 to {MOST:,}")
    parts = []
    for text in listed.split(","):
        named = re.fullmatch(r"([a-z]+)-(\d{1,4})(?:\*(\d+(?:\.\d+)?))?", text)
        if named is None or float(named[3] or 1) == 0:
            raise InputError(f"data source {name!r}: {text!r} is not NAME-SIZE or NAME-SIZE*RATE, like recall-8*2")
        find(named[1], int(named[2]))
        parts.append(Part(named[1], int(named[2]), float(named[3] or 1)))
    return form, tuple(parts), int(count)


def find(name: str, size: int) -> Ability:
    """Raises InputError if there is no such ability, or none of this size."""
    if name not in ABILITIES:
        raise InputError(f"ability {name!r} is none of {', '.join(ABILITIES)}")
    sizes = ABILITIES[name].sizes
    if size not in sizes:
        raise InputError(f"ability {name}: size {size} is not from {sizes[0]} to {sizes[-1]}")
    return ABILITIES[name]


def is_held_out(name: str, question: Question) -> bool:
    """Whether no training stream has this question."""
    return hashlib.sha256(f"{name}/{question.key}".encode()).digest()[0] % HELD_OUT == 0


def held_out_questions(name: str, size: int, count: int) -> list[Question]:
    """The same `count` different questions of a size on every machine, none of which is in a training stream.

    Raises:
      InputError: if there are not so many.
    """
    ability, draw = find(name, size), Draw("ability", name, size)
    found: dict[str, Question] = {}
    for _ in range(ATTEMPTS + count * 10 * HELD_OUT):
        question = ability.make(draw, size)
        if is_held_out(name, question):
            found.setdefault(question.text, question)
            if len(found) == count:
                return list(found.values())
    raise InputError(f"ability {name} of size {size} has about {len(found)} questions that are held out, not {count}")


def stream(parts: tuple[Part, ...], count: int) -> Iterator[tuple[str, Question]]:
    """Training questions with the names of their abilities, of which none is held out."""
    draw, whole = Draw("abilities", *parts), sum(part.rate for part in parts)
    for _ in range(count):
        place = draw.below(1 << 30) / (1 << 30) * whole
        for part in parts:
            place -= part.rate
            if place < 0:
                break
        ability = ABILITIES[part.name]
        while True:
            size = ability.least + draw.below(part.size - ability.least + 1) if part.size > ability.least else part.size
            question = ability.make(draw, size)
            if not is_held_out(part.name, question):
                break
        yield part.name, question


def _records(source: str, pairs: bool, parts: tuple[Part, ...], count: int) -> Iterator[Record]:
    for number, (_, question) in enumerate(stream(parts, count)):
        fields = (question.text, question.answer) if pairs else (question.text + question.answer,)
        yield Record(f"{source}:{number}", fields)


def _number(draw: Draw, digits: int) -> int:
    least = 0 if digits == 1 else 10 ** (digits - 1)
    return least + draw.below(10**digits - least)


def _letters(draw: Draw, count: int) -> str:
    return "".join(draw.one(LETTERS) for _ in range(count))


def _arithmetic(sign: str, compute: Callable[[int, int], int], draw: Draw, size: int) -> Question:
    a, b = _number(draw, size), _number(draw, size)
    return Question(f"{a}{sign}{b}=", str(compute(a, b)), f"{min(a, b)}{sign}{max(a, b)}")


def _modular(draw: Draw, size: int) -> Question:
    a, b = draw.below(size), draw.below(size)
    return Question(f"{a:02}+{b:02}%{size}=", f"{(a + b) % size:02}", f"{min(a, b)}+{max(a, b)}%{size}")


def _transformed(sign: str, change: Callable[[str], str], draw: Draw, size: int) -> Question:
    text = _letters(draw, size)
    return Question(f"{sign}{text}=", change(text), text)


def _unscrambling(draw: Draw, size: int) -> Question:
    word = scrambled = draw.one([word for word in WORDS if len(word) == size])
    while scrambled == word:
        scrambled = draw.shuffled(word)
    return Question(f"U{scrambled}=", word, scrambled)


def _recall(draw: Draw, size: int) -> Question:
    keys = draw.sample(LETTERS, size)
    values = [draw.one(DIGITS) for _ in keys]
    asked = draw.below(size)
    shown = "".join(map(str.__add__, keys, values))
    return Question(f"A{shown}?{keys[asked]}=", values[asked], f"{shown}?{keys[asked]}")


def _brackets(draw: Draw, size: int) -> Question:
    text, opened = "", list[str]()
    while len(opened) < size:
        if opened and len(text) < 3 * size and draw.below(3) == 0:
            text += PAIRS[opened.pop()]
        else:
            opened.append(draw.one(tuple(PAIRS)))
            text += opened[-1]
    return Question(f"B{text}=", "".join(PAIRS[one] for one in reversed(opened)), text)


def _causes(rung: str, draw: Draw, size: int) -> Question:
    """A world of `size` variables: the first one moves by itself, each other one follows an earlier one."""
    names = draw.sample(LETTERS[: size + 2], size)
    parents = [draw.below(number) for number in range(1, size)]
    signs = [draw.below(2) for _ in parents]

    def world(first: int, fixed: int | None = None, value: int = 0) -> list[int]:
        values = [first]
        for number, (parent, sign) in enumerate(zip(parents, signs, strict=True), start=1):
            values.append(value if number == fixed else values[parent] ^ sign)
        return values

    first, changed, value = draw.below(2), 1 + draw.below(size - 1), draw.below(2)
    seen = 0 if rung == "!" else draw.below(size)
    asked = draw.one([number for number in range(size) if number != (changed if rung else seen)])
    real = world(first)
    then = world(first, changed, value) if rung else real
    arrows = ",".join(
        f"{names[number]}={'-' * sign}{names[parent]}"
        for number, (parent, sign) in enumerate(zip(parents, signs, strict=True), start=1)
    )
    what = f"{rung}{names[changed]}{value}" if rung else ""
    text = f"W{arrows};{names[seen]}{real[seen]}{what}?{names[asked]}="
    return Question(text, str(then[asked]), text)


def _hash(text: str) -> str:
    return str(hashlib.sha256(f"answer/{text}".encode()).digest()[0] % 10)


def _other_character(characters: str, draw: Draw, answer: str) -> str:
    """The answer with another character in one place."""
    place = draw.below(len(answer))
    return answer[:place] + draw.one(characters) + answer[place + 1 :]


def _other_number(draw: Draw, answer: str) -> str:
    """As `_other_character`; what has several digits does not begin with 0, which would give it away."""
    while (other := _other_character(DIGITS, draw, answer)).startswith("0") and len(other) > 1:
        pass
    return other


def _other_word(draw: Draw, answer: str) -> str:
    return str(draw.one([word for word in WORDS if len(word) == len(answer)]))


_digit, _letter = partial(_other_character, DIGITS), partial(_other_character, LETTERS)
_SIZES = {len(word) for word in WORDS}
ABILITIES = {
    "addition": Ability(partial(_arithmetic, "+", int.__add__), _other_number, range(1, 41), 1),
    "multiplication": Ability(partial(_arithmetic, "*", int.__mul__), _other_number, range(1, 41), 1),
    "modular": Ability(_modular, _digit, range(5, 101), 101),
    "reversal": Ability(partial(_transformed, "R", lambda text: text[::-1]), _letter, range(3, 101), 3),
    "unscrambling": Ability(_unscrambling, _other_word, range(min(_SIZES), max(_SIZES) + 1), min(_SIZES)),
    "copying": Ability(partial(_transformed, "C", str), _letter, range(3, 101), 3),
    "recall": Ability(_recall, _digit, range(2, 27), 2),
    "brackets": Ability(_brackets, partial(_other_character, "".join(PAIRS.values())), range(2, 101), 2),
    "association": Ability(partial(_causes, ""), partial(_other_character, "01"), range(2, 13), 2, 2),
    "intervention": Ability(partial(_causes, "!"), partial(_other_character, "01"), range(2, 13), 2, 2),
    "counterfactual": Ability(partial(_causes, "~"), partial(_other_character, "01"), range(2, 13), 2, 2),
    "hashing": Ability(partial(_transformed, "H", _hash), _digit, range(3, 101), 3),
}
