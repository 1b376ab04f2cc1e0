"""Two sides in turn: each in its own process, both as often, and a failure tells whose it was."""

import os
import time

import pytest

from research.benchmarks import pairs


def sleeping(seconds):
    def turn(count):
        time.sleep(seconds * count)
        return {"rate": 1 / seconds, "count": count}

    return {"process": os.getpid()}, turn


def failing_at_once():
    raise ValueError("no such thing")


def failing_later():
    def turn(count):
        raise ValueError("not today")

    return {}, turn


def test_ratios_are_of_pairs_of_turns_and_the_first_does_not_count():
    with pairs.side("ours", sleeping, 0.001) as ours, pairs.side("theirs", sleeping, 0.002) as theirs:
        pairs.in_turn([ours, theirs], 3, 2)
        assert len({os.getpid(), ours.facts["process"], theirs.facts["process"]}) == 3
    assert [turn["count"] for side in (ours, theirs) for turn in side.turns] == [2] * 6
    assert str(pairs.ratio(ours, theirs)) == "2.00 (2.00 to 2.00, 3 pairs)"


def test_a_failure_carries_its_side_and_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)ours failed.*no such thing"), pairs.side("ours", failing_at_once):
        pass
    with pairs.side("theirs", failing_later) as theirs, pytest.raises(RuntimeError, match=r"(?s)theirs.*not today"):
        theirs.take(1)
