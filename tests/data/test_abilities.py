"""Questions with known answers: every answer is right, and no training stream has a question that is held out."""

import itertools
import re

import pytest

from research.data import abilities, sources
from research.data.abilities import ABILITIES, held_out_questions, is_held_out, parse, stream
from research.data.draws import WORDS
from research.data.records import Record
from research.errors import InputError

SIZES = {"addition": 2, "multiplication": 2, "modular": 23, "unscrambling": 6, "recall": 6}
ALL = ",".join(f"{name}-{SIZES.get(name, 4)}" for name in ABILITIES)


def solved(name: str, text: str) -> str:
    """The answer to a question, found by other means than those that made it."""
    body = text[:-1]
    if name in ("addition", "multiplication"):
        return str(eval(body))
    if name == "modular":
        a, b, m = map(int, re.split(r"[+%]", body))
        return f"{(a + b) % m:02}"
    if name in ("reversal", "copying"):
        return body[:0:-1] if name == "reversal" else body[1:]
    if name == "recall":
        shown, _, asked = body[1:].partition("?")
        return dict(re.findall(r"(\w)(\d)", shown))[asked]
    if name == "brackets":
        left = body[1:]
        while left != (left := re.sub(r"\(\)|\[\]|\{\}", "", left)):
            pass
        return left[::-1].translate(str.maketrans("([{", ")]}"))
    raise AssertionError(name)


def worlds(text: str) -> str:
    """The answer of a causal question, by trying both values of the first cause."""
    arrows, _, rest = text[1:-1].partition(";")
    follows = {
        child: (parent[-1], parent.startswith("-")) for child, parent in (a.split("=") for a in arrows.split(","))
    }
    seen, value, _, changed, new, asked = re.fullmatch(r"(\w)(\d)(?:([!~])(\w)(\d))?\?(\w)", rest).groups()

    def run(first: int, fixed: dict[str, int]) -> dict[str, int]:
        found = {}

        def of(name: str) -> int:
            if name in fixed:
                return fixed[name]
            if name not in follows:
                return first
            parent, negated = follows[name]
            return of(parent) ^ negated

        for name in {*follows, *(parent for parent, _ in follows.values())}:
            found[name] = of(name)
        return found

    (first,) = (first for first in (0, 1) if run(first, {})[seen] == int(value))
    return str(int(run(first, {changed: int(new)} if changed else {})[asked]))


@pytest.mark.parametrize("name", [name for name in ABILITIES if name not in ("hashing", "unscrambling")])
def test_answers_are_right(name):
    for question in held_out_questions(name, SIZES.get(name, 4), 30):
        causal = name in ("association", "intervention", "counterfactual")
        assert question.answer == (worlds(question.text) if causal else solved(name, question.text))


def test_a_scrambled_word_is_a_word():
    for question in held_out_questions("unscrambling", 6, 30):
        assert question.answer in WORDS
        assert sorted(question.answer) == sorted(question.text[1:-1]) and question.answer != question.text[1:-1]


def test_no_held_out_question_is_in_a_training_stream():
    found = list(stream(parse(f"abilities:{ALL}#20000")[1], 20000))
    assert not any(is_held_out(name, question) for name, question in found)
    shown = {(name, question.text) for name, question in found}
    for name in ABILITIES:
        asked = held_out_questions(name, SIZES.get(name, 4), 40)
        assert not shown & {(name, question.text) for question in asked}
        if name in ("addition", "multiplication", "modular"):  # nor with its operands the other way round
            swapped = {(name, re.sub(r"^(\d+)([+*])(\d+)", r"\3\2\1", question.text)) for question in asked}
            assert not shown & swapped


def test_training_shows_every_size_up_to_the_largest_at_the_rates_that_were_asked_for():
    found = list(stream(parse("abilities:copying-5*3,recall-3#4000")[1], 4000))
    assert 0.7 < sum(name == "copying" for name, _ in found) / 4000 < 0.8
    assert {len(question.answer) for name, question in found if name == "copying"} == {3, 4, 5}


def test_a_source_gives_documents_or_pairs_and_is_the_same_again():
    texts, pairs = ("abilities:copying-5#50", "ability_pairs:copying-5#50")
    documents = [record.fields for record in sources.source_records(texts) if isinstance(record, Record)]
    parts = [record.fields for record in sources.source_records(pairs) if isinstance(record, Record)]
    assert len(documents) == 50 and documents == [("".join(part),) for part in parts]
    assert documents == [record.fields for record in sources.source_records(texts)]
    assert sources.open_source(texts).parts == 1 and sources.open_source(pairs).parts == 2


@pytest.mark.parametrize(
    "name, told",
    [
        ("abilities:copying-5", "#COUNT"),
        ("abilities:copying-5#0", "#COUNT"),
        ("abilities:copying#5", "NAME-SIZE"),
        ("abilities:copying-5*0#5", "NAME-SIZE"),
        ("abilities:juggling-5#5", "none of addition"),
        ("abilities:recall-27#5", "not from 2 to 26"),
    ],
)
def test_a_wrong_source_is_told(name, told):
    with pytest.raises(InputError, match=re.escape(told)):
        sources.open_source(name)


def test_too_few_questions_are_told():
    with pytest.raises(InputError, match="not 1000"):
        held_out_questions("modular", 5, 1000)


def test_options_differ_and_have_the_length_of_the_right_one():
    from research.evaluation.generated_tasks import GENERATORS

    for name in ABILITIES:
        for record in GENERATORS["ability"](name=name, size=SIZES.get(name, 4), count=10):
            assert (
                len(set(record["options"]))
                == len(record["options"])
                == abilities.find(name, SIZES.get(name, 4)).options
            )
            assert len({len(option) for option in record["options"]}) == 1


def test_the_rungs_of_causation_differ():
    """Intervening leaves the causes of a variable as they are; seeing it tells of them."""
    found = itertools.islice(held_out_questions("intervention", 3, 60), 60)
    differs = 0
    for question in found:
        arrows, _, rest = question.text.partition(";")
        changed, value, asked = re.fullmatch(r"\w\d!(\w)(\d)\?(\w)=", rest).groups()
        differs += worlds(f"{arrows};{changed}{value}?{asked}=") != question.answer
    assert differs > 5
