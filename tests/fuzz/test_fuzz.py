"""For a minute: mutated inputs with a fixed seed, for every reader; and the inputs that once failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.readers import READERS

COUNT = 128  # inputs of each reader
ROOT = Path(__file__).resolve().parents[2]


def found_by(*options: str) -> dict:
    """The result of a process of its own, in which nothing has started threads, and which takes its memory with it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.fuzz", *options]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1:][0].startswith("{"), ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results() -> dict:
    return found_by("--json", "--hours", "0.1", "--count", str(COUNT))


@pytest.fixture(scope="module")
def outcomes() -> dict:
    return found_by("--corpus")


@pytest.mark.parametrize("reader", READERS)
def test_a_mutated_input_gives_a_value_or_an_input_error(results, reader):
    assert results["tried"][reader] == COUNT
    assert results["found"][reader] == {}


@pytest.mark.parametrize("case", corpus.LEFT_OUT)
def test_a_line_of_metrics_that_once_failed_is_named_and_left_out(outcomes, case):
    assert "is damaged and left out" in outcomes[case]


@pytest.mark.parametrize("case", corpus.CASES)
def test_an_input_that_once_failed_is_refused_in_one_line(outcomes, case):
    """Or, where it is a line of a run's own records, left out with a warning that names it."""
    refused = outcomes[case].startswith("refused: ") and len(outcomes[case]) < 1000
    assert refused or "metrics.jsonl: line 1 is damaged and left out" in outcomes[case]


def test_the_harness_finds_what_is_not_allowed(tmp_path):
    """A reader that raises, one that does not end, one that takes memory, and one that ends its process."""
    program = (
        "import os, time\n"
        "from tests.fuzz import harness, readers\n"
        "harness.IMPORTING = 1\n"  # nothing is imported here
        "def make(folder): (folder / 'x.txt').write_text('valid')\n"
        "def reader(bad):\n"
        "    def read(folder): (folder / 'x.txt').read_bytes() == b'valid' or bad()\n"
        "    return readers.Reader(make, read, 0.5, 1 << 28)\n"
        "readers.READERS.update(\n"
        "    raises=reader(lambda: 1 / 0), hangs=reader(lambda: time.sleep(99)),\n"
        "    takes=reader(lambda: bytearray(1 << 30)), ends=reader(lambda: os._exit(3)))\n"
        "for name in ('raises', 'hangs', 'takes', 'ends'):\n"
        "    found = [each for _, batch in harness.inputs(name, 0, 3, 0, time.monotonic() + 60) for each in batch]\n"
        "    print(name, {failure.outcome.split(':')[0] for failure in found})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    lines = ended.stdout.splitlines()
    assert "builtins.ZeroDivisionError" in lines[0], ended.stderr
    assert "takes more than 0.5 seconds" in lines[1]
    assert "builtins.MemoryError" in lines[2]
    assert "the process has ended with 3" in lines[3]
