"""A long run of tiny steps, with evaluations and checkpoints: memory flat, files bounded, nothing compiled after the
beginning, and steps that take the same time at the end."""

import os
import statistics
from dataclasses import replace
from pathlib import Path

import jax.monitoring
import pytest

from research.config import Checkpoint, Evaluation, Logging, Schedule
from research.runs import records, trainer
from research.runs.trainer import train
from research.training import checkpoint
from tests.conftest import resident
from tests.faults.shared import experiment, quiet

COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of jax.monitoring, for each program
MEBIBYTE = 2**20


@pytest.mark.slow
def test_ten_thousand_steps(tmp_path, monkeypatch):
    steps = int(os.environ.get("ENDURANCE_STEPS", "10000"))
    warm = steps // 5
    long = replace(
        experiment(tmp_path),
        schedule=Schedule(steps=steps, warmup=10),
        checkpoint=Checkpoint(every=50, keep_last=3),
        evaluation=Evaluation(every=50, batches=1, final_batches=1, samples=True),
        logging=Logging(every=10, tensorboard=True),
    )
    now, compiled, memory, listed = [0], [], {}, {}
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(now[0]) if event == COMPILED else None
    )
    save = trainer.Checkpointing.save

    def saving(self, state, *arguments):
        now[0] = int(state.step)
        memory[now[0]] = resident()
        listed[now[0]] = sum(1 for _ in (tmp_path / "run").rglob("*")), len(os.listdir("/proc/self/fd"))
        save(self, state, *arguments)

    monkeypatch.setattr(trainer.Checkpointing, "save", saving)
    train(long, tmp_path / "run", quiet())
    late = [step for step in compiled if warm <= step < steps]
    levels = [memory[step] / MEBIBYTE for step in sorted(memory) if step >= warm]
    growth = statistics.median(levels[-len(levels) // 4 :]) - statistics.median(levels[: len(levels) // 4])
    found = [record for record in records.read(tmp_path / "run" / records.FILE) if record["kind"] == "train"]
    speeds = [record["tokens_per_second"] for record in found if record["step"] >= warm]
    ratio = statistics.median(speeds[-len(speeds) // 4 :]) / statistics.median(speeds[: len(speeds) // 4])
    files = {listed[step] for step in listed if step >= warm}
    size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    print(
        f"{steps:,} steps: {len(compiled)} programs, {len(late)} of them after step {warm:,}; memory {levels[0]:.0f} to"
    )
    print(
        f"{levels[-1]:.0f} MiB ({growth:+.1f}); files, descriptors {min(files)} to {max(files)}; {size:,} bytes; speed"
    )
    print(f"of the last quarter to the first {ratio:.2f}; {len(memory)} saves")
    assert not late
    assert growth < 20 + steps / 500
    assert checkpoint.steps(tmp_path / "run") == [steps - 100, steps - 50, steps]
    assert max(count for count, _ in files) < 250 and max(handles for _, handles in files) < 200
    assert ratio > 0.5  # other work on the machine may take half of it
    assert len(found) == steps // 10
    assert Path(tmp_path / "run" / "result.json").exists()
