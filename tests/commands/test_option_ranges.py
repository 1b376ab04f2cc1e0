"""Numbers that no command could mean are refused before a checkpoint is read."""

import pytest

from research.commands import benchmark, evaluate, generate
from research.errors import InputError

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


def test_the_ends_of_the_ranges_are_in_them():
    """What is in range gets as far as the checkpoint, which is not there."""
    for command, options in (
        (generate, ["--prompt", "a", "--top-p", "1", "--temperature", "0", "--top-k", "0", "--seed", "4294967295"]),
        (evaluate, ["--tasks", "copying", "--limit", "1", "--length", "2", "--shots", "0", "--every", "0.1"]),
    ):
        with pytest.raises(InputError, match=ABSENT):
            command.main([ABSENT, *options])
