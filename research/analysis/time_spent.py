"""Where the time of a run went."""

from dataclasses import dataclass

from research.analysis.runs import Run


@dataclass(frozen=True)
class Part:
    """Seconds spent on one kind of thing."""

    name: str
    seconds: float
    share: float  # percent of all


def time(run: Run) -> list[Part]:
    """The parts of a run's time over all its starts, as it recorded them last; empty if it did not."""
    recorded = [one["spent"] for one in (*run.records, run.result or {}) if "spent" in one]
    if not recorded:
        return []
    total = sum(recorded[-1].values())
    return [Part(name, seconds, 100 * seconds / total) for name, seconds in recorded[-1].items() if seconds > 0]
