"""Detokenised text reads well and can be turned back, so that its probability is one of the original."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.evaluation.detokenisers import STYLES, detokenise, tokenise

EXAMPLES = {
    "wikitext": (
        ' He said : " I didn \'t pay $ 3 @,@ 000 ( or 3 @.@ 5 % ) for a well @-@ known one . " \n \n = = Title = = \n',
        'He said: "I didn\'t pay $3,000 (or 3.5%) for a well-known one."\n\n== Title ==\n',
    ),
    "penn": (
        "`` I do n't know , '' said Mr. Smith -LRB- 61 years old -RRB- , who paid $ 1.5 million .",
        '"I don\'t know," said Mr. Smith (61 years old), who paid $1.5 million.',
    ),
    "ptb": (
        " the company 's u.s. unit did n't say \n mr. <unk> paid $ N million \n",
        "the company's u.s. unit didn't say\nmr. <unk> paid $N million\n",
    ),
}
PIECES = [
    "a",
    "B.",
    "don",
    "n't",
    "'t",
    "'s",
    ".",
    ",",
    '"',
    "(",
    ")",
    "@-@",
    "@,@",
    "@",
    "=",
    "3",
    "``",
    "''",
    "-LRB-",
    " ",
    "\n",
    "é",
    "--",
    "...",
]


@pytest.mark.parametrize("style", STYLES)
def test_text_reads_as_it_would_be_written(style):
    original, expected = EXAMPLES[style]
    assert detokenise(original, style) == expected
    assert tokenise(expected, style) == original


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join)))
def test_every_text_can_be_turned_back(style, text):
    assert tokenise(detokenise(text, style), style) == text


def test_wikitext_itself(shared):
    lines = (shared / "data/text/wikitext2_raw_test.txt").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if line.strip())  # the original has no empty lines, but such with a space
    shown = detokenise(text, "wikitext")
    assert tokenise(shown, "wikitext") == text
    words = len(text.split())
    assert len(re.findall(r"(?m)(?<!\S)@", shown)) < 0.001 * words  # marks of what cannot be undone
    assert len(re.findall(r" [,.;:]", shown)) < 0.001 * words
