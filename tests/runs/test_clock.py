"""Where time goes is counted over all starts of a run."""

import time

import pytest

from research.errors import InputError
from research.runs import tracing
from research.runs.clock import KINDS, Clock, share


def test_each_second_is_of_one_kind():
    clock = Clock(time.monotonic(), [], 0)
    with clock.on("saving"):
        time.sleep(0.05)
        assert clock.now()["saving"] >= 0.05 > clock.now()["training"]
    time.sleep(0.05)
    spent = clock.now()
    assert spent["saving"] >= 0.05 and spent["training"] >= 0.05
    assert sum(spent.values()) == pytest.approx(time.monotonic() - clock.began, abs=0.02)
    assert share(spent) == spent["training"] / sum(spent.values())


def test_what_a_restart_loses_is_counted(monkeypatch):
    """A run that began at 100 s and wrote its last record at 160 s goes on at 200 s from the checkpoint of step 2."""

    def record(step, now, **spent):
        return {"step": step, "time": now, "spent": dict.fromkeys(KINDS, 0.0) | spent}

    first = record(1, 120.0, training=15.0, starting=5.0)
    kept = record(2, 130.0, training=22.0, starting=5.0, saving=3.0)
    lost = record(7, 160.0, training=50.0, starting=5.0, saving=5.0)
    monkeypatch.setattr(time, "time", lambda: 203.0)
    monkeypatch.setattr(time, "monotonic", lambda: 13.0)  # both three seconds after the start
    spent = Clock(10.0, [first, kept, lost], start=2).before
    assert spent == kept["spent"] | {"repeating": 30.0, "down": 40.0}
    assert sum(spent.values()) == 200.0 - 100.0
    anew = Clock(10.0, [first, kept, lost], start=0).before  # there was no checkpoint yet
    assert (anew["repeating"], anew["down"], sum(anew.values())) == (60.0, 40.0, 100.0)
    unstamped = Clock(10.0, [{"step": 1}], start=1).before  # written before there were such numbers
    assert sum(unstamped.values()) == 0


def test_steps_to_trace_are_first_and_last():
    assert list(tracing.steps("10:12", 20)) == [10, 11, 12] and not tracing.steps(None, 20)
    for wrong in ("10", "0:3", "5:4", "a:b", "10:21", ":"):
        with pytest.raises(InputError, match=r"--profile .* as 10:15, between 1 and 20"):
            tracing.steps(wrong, 20)
