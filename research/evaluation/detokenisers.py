"""Invertible detokenisers: from artificially tokenised text (`I do n't know , she said`) to what a person would write.

A corpus of separated tokens scored as it is measures how surprising its tokenisation is. Radford et al. (2019, section
3.1) undo it; as long as that is invertible, the probability of the detokenised text is one of the original. Here it is
by construction: tokens are glued into chunks by the rules of a style only where `_split`, the style's own tokeniser,
gives the tokens back; else they stay apart. A token that even alone would be split is marked with an `@` before it.
"""

import dataclasses
import re
from dataclasses import dataclass, field

MARK = "@"  # before a chunk that is one token; alone at the beginning of a line that has no outer spaces


@dataclass(frozen=True)
class Style:
    """How a corpus was tokenised."""

    pattern: str  # regular expression of the tokens within a chunk; its group `infix` are those that stand for infixes
    suffixes: frozenset[str] = frozenset(
        [".", ",", ";", ":", "!", "?", ")", "]", "}", "%", "'", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]
    )  # joined to what precedes
    prefixes: frozenset[str] = frozenset(["(", "[", "{", "$", "£", "€"])  # joined to what follows
    infixes: dict[str, str] = field(default_factory=dict)  # joined to both sides -> as they are written
    shown: dict[str, str] = field(default_factory=dict)  # other tokens that are written differently
    quotes: tuple[str, str] | None = None  # the opening and the closing one, both written as "
    outer_spaces: bool = False  # lines begin and end with a space


WIKITEXT = Style(
    r"(?P<infix>(?<=\w)-(?=\w)|(?<=\d),(?=\d)|(?<=\d)\.(?=\d))|(?:[A-Z]\.)+|(?:Nos?|Col|St|vs|Gen|Dr|Mrs?|Ms|Sr|Bros|Inc|Lt)\."
    r"|'(?:s|t|re|ve|m|ll|d)\b|\.\.\.|<\w+>|[^\W_]+|.",
    infixes={"@-@": "-", "@,@": ",", "@.@": "."},
    outer_spaces=True,
)
PENN = Style(  # also of the Children's Book Test and the One Billion Word benchmark
    r"[^\W_]+?(?=n't)|n't|'(?:s|re|ve|m|ll|d)\b|(?:[A-Z]\.)+|(?:Mrs?|Ms|Dr|St|Sr|Jr|Inc|Corp|Co)\.|--|\.\.\.|<unk>"
    r"|[^\W_]+(?:[-.,/&][^\W_]+)*|.",
    suffixes=frozenset(
        [".", ",", ";", ":", "!", "?", ")", "]", "}", "%", "n't", "'s", "'re", "'ve", "'m", "'ll", "'d", "''", "-RRB-"]
    ),
    prefixes=frozenset(["(", "[", "{", "$", "£", "``", "-LRB-"]),
    shown={"-LRB-": "(", "-RRB-": ")"},
    quotes=("``", "''"),
)
PTB = dataclasses.replace(  # Mikolov's version of the Penn Treebank: lower case, N for numbers, no punctuation
    PENN,
    outer_spaces=True,
    pattern=r"[^\W_]+?(?=n't)|n't|'(?:s|re|ve|m|ll|d)\b|<unk>|[^\W_]+(?:(?:[-.,/&\\]|'(?!(?:s|re|ve|m|ll|d)\b))[^\W_]+)*\.?|.",
)
STYLES = {"wikitext": WIKITEXT, "penn": PENN, "ptb": PTB}


def detokenise(text: str, style: str) -> str:
    """The text of tokens separated by spaces, as it would be written. Lines stay lines."""
    body, end = _without_last_newline(text)
    return "\n".join(_line(STYLES[style], line) for line in body.split("\n")) + end


def tokenise(text: str, style: str) -> str:
    """The inverse of `detokenise`."""
    body, end = _without_last_newline(text)
    return "\n".join(_original(STYLES[style], line) for line in body.split("\n")) + end


def _without_last_newline(text: str) -> tuple[str, str]:
    return (text[:-1], "\n") if text.endswith("\n") else (text, "")


def _line(style: Style, line: str) -> str:
    if style.outer_spaces:
        if line == " ":
            return ""
        if len(line) < 3 or line[0] != " " or line[-1] != " ":
            return f"{MARK} {line}"
        line = line[1:-1]
    chunks: list[str] = []
    run: list[str] = []
    joins, open_quote = False, False  # whether the last token joins the next one; whether a quotation is open
    for token in line.split(" "):
        heading = bool(run) and token == run[-1] == "="
        attaches = token in style.suffixes or token in style.infixes or (token == '"' and open_quote)
        if run and not (joins or heading or attaches):
            chunks += _chunks(style, run)
            run = []
        run.append(token)
        joins = token in style.prefixes or token in style.infixes or (token == '"' and not open_quote)
        open_quote ^= token == '"'
    return " ".join(chunks + _chunks(style, run))


def _original(style: Style, line: str) -> str:
    if style.outer_spaces and line.startswith(f"{MARK} "):
        return line[2:]
    if style.outer_spaces and not line:
        return " "
    tokens = " ".join(token for chunk in line.split(" ") for token in _split(style, chunk))
    return f" {tokens} " if style.outer_spaces else tokens


def _chunks(style: Style, run: list[str]) -> list[str]:
    """The run as one chunk if that can be split again, else as several; a single token that cannot is marked."""
    for end in range(len(run), 0, -1):
        glued = "".join(_written(style, token) for token in run[:end])
        if _split(style, glued) == run[:end]:
            return [glued, *(_chunks(style, run[end:]) if end < len(run) else [])]
    return [MARK + run[0], *(_chunks(style, run[1:]) if len(run) > 1 else [])]


def _written(style: Style, token: str) -> str:
    if style.quotes and token in style.quotes:
        return '"'
    return style.infixes.get(token, style.shown.get(token, token))


def _split(style: Style, chunk: str) -> list[str]:
    """The tokens of a chunk."""
    if not chunk or chunk.startswith(MARK):
        return [chunk.removeprefix(MARK)]
    parts = list(re.finditer(style.pattern, chunk))
    infixes = {shown: token for token, shown in style.infixes.items()}
    others = {shown: token for token, shown in style.shown.items()}

    def token(number: int, part: re.Match[str]) -> str:
        last = number == len(parts) - 1
        if style.quotes and part[0] == '"':  # it opens where a word follows
            return style.quotes[last or not parts[number + 1][0][0].isalnum()]
        return infixes[part[0]] if part.lastgroup == "infix" else others.get(part[0], part[0])

    return [token(number, part) for number, part in enumerate(parts)]
