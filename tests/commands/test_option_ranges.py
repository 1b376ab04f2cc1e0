"""Numbers that no command could mean are refused before a checkpoint is read."""

import pytest

from research.commands import benchmark, convert, evaluate, generate, report
from research.errors import InputError
from research.inference.generation import Sampling

ABSENT = "/nowhere/at/all"  # if it were read, the error would name it


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (generate, "--top-p", "0"),
        (generate, "--top-p", "nan"),
        (generate, "--temperature", "nan"),
        (generate, "--temperature", "inf"),
        (generate, "--temperature", "-1"),
        (generate, "--top-k", "-1"),
        (generate, "--samples", "0"),
        (generate, "--tokens", "0"),
        (generate, "--tokens", "100000000000"),
        (generate, "--least", "-1"),
        (generate, "--candidates", "0"),
        (generate, "--seed", "-1"),
        (generate, "--seed", "99999999999999999999999"),
        (evaluate, "--limit", "0"),
        (evaluate, "--limit", "-1"),
        (evaluate, "--length", "0"),
        (evaluate, "--length", "-5"),
        (evaluate, "--shots", "-1"),
        (evaluate, "--shots", "1000000000"),
        (evaluate, "--every", "nan"),
        (evaluate, "--every", "0"),
        (benchmark, "--rounds", "0"),
        (benchmark, "--count", "-1"),
        (benchmark, "--batch", "0"),
        (benchmark, "--tokens", "0"),
    ],
)
def test_an_option_that_no_command_could_mean_is_refused_in_one_line(command, option, value):
    arguments = ["generate", ABSENT] if command is benchmark else [ABSENT]
    arguments += ["--prompt", "a"] if command is generate else []
    with pytest.raises(InputError) as error:
        command.main([*arguments, option, value])
    line = str(error.value)
    assert "\n" not in line and ABSENT not in line
    assert option.strip("-").replace("-", "_") in line.replace("-", "_") and value in line.replace(",", "")


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        (evaluate, ["--out", ""], "--out"),
        (evaluate, ["--tasks", "copying", " "], "--tasks"),
        (evaluate, ["--out="], "--out"),
        (generate, ["--prompt", "a", "--objective", " "], "--objective"),
        (convert, ["--to", ""], "--to"),
        (report, ["--out", ""], "--out"),
    ],
)
def test_an_option_that_is_empty_is_refused_by_its_name(command, options, named):
    """As of a variable of the shell that is not set: an empty path would be the current folder."""
    with pytest.raises(InputError, match=f"^{named} is empty"):
        command.main([ABSENT, *([ABSENT] if command is convert else []), *options])


def test_texts_may_be_empty_but_a_stop_string_may_not():
    with pytest.raises(InputError, match=ABSENT):
        generate.main([ABSENT, "--prompt", "", " "])
    with pytest.raises(InputError, match=r"stop: .* none of them empty"):
        Sampling(stop=("",))
    with pytest.raises(InputError, match="stop: '###' must be texts in a tuple"):
        Sampling(stop="###")


def test_the_ends_of_the_ranges_are_in_them():
    """What is in range gets as far as the checkpoint, which is not there."""
    for command, options in (
        (generate, ["--prompt", "a", "--top-p", "1", "--temperature", "0", "--top-k", "0", "--seed", "4294967295"]),
        (evaluate, ["--tasks", "copying", "--limit", "1", "--length", "2", "--shots", "0", "--every", "0.1"]),
    ):
        with pytest.raises(InputError, match=ABSENT):
            command.main([ABSENT, *options])
