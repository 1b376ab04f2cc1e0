"""Something that is due after so much time, at the same step in all processes of a run.

Their clocks differ, so the main process decides. Asking it costs a broadcast, which all of them make at the same step:
first after one step, and then each time at half of the steps that the time left seems to have.
"""

import json
import time
from collections.abc import Callable

from research.runtime import processes


class Interval:
    """Due every `seconds`; never, if that is 0."""

    def __init__(self, seconds: float, step: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`step`: the steps that were taken until now."""
        self.seconds, self.clock = seconds, clock
        self.reset(step)

    def reset(self, step: int) -> None:
        """It was done after so many steps."""
        self.since, self.step, self.next_look = self.clock(), step, step + 1

    def due(self, step: int) -> bool:
        """Whether it is due after so many steps; every process asks after every step."""
        if not self.seconds or step < self.next_look:
            return False
        passed = _agreed(self.clock() - self.since)
        pace = max(passed, 1e-9) / max(step - self.step, 1)  # seconds a step
        left = self.seconds - passed
        if left < pace / 2:  # the next step would be further from it
            return True
        self.next_look = step + max(1, int(left / pace / 2)) if processes.is_distributed() else step + 1
        return False


def _agreed(seconds: float) -> float:
    return float(json.loads(processes.broadcast(json.dumps(seconds).encode())))
