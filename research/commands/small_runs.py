"""The runs that notebooks show: those of the README where they were made, else small ones.

A small run is made once and kept in the cache folder, beside prepared data.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from research import config
from research.commands import command_line, evaluate
from research.commands.train import train
from research.config import Causal, Evaluation, Experiment, Logging, Masked, Optimizer, Prefix, replace_fields
from research.runtime import processes
from research.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
QUIET = Logging(tensorboard=False)


def quickstart() -> str:
    """The run of `configs/quickstart.py`, or a small one like it."""
    trained = ROOT / "runs" / "quickstart"
    return str(trained) if checkpoint.steps(trained) else _made("small_quickstart", _small())


def smollm2() -> Path:
    """Where `launch/fetch_smollm2.sh` puts it."""
    return processes.cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def pretrained() -> str:
    """SmolLM2, if it was fetched, else the quickstart's run."""
    return str(smollm2()) if smollm2().exists() else quickstart()


def new_york_zoo(adapters: bool = False) -> tuple[str, str]:
    """A checkpoint before and after training on one sentence, as a whole (`configs/new_york_zoo.py`) or through
    adapters alone (`configs/new_york_zoo_lora.py`): SmolLM2 where that was trained so, or can be at once, which is
    where its file was fetched, through adapters; else the quickstart's run."""
    name = "new_york_zoo_lora" if adapters else "new_york_zoo"
    trained = ROOT / "runs" / name
    if checkpoint.steps(trained):
        return str(config.load(trained / "experiment.json").initialize_from), str(trained)
    base = pretrained() if adapters else quickstart()
    whole = command_line.read(ROOT / "configs" / f"{name}.py")
    experiment = replace(whole, initialize_from=base, evaluation=Evaluation(every=0, samples=False), logging=QUIET)
    if base != str(smollm2()):
        faster = Optimizer(learning_rate=1e-2 if adapters else 2e-3, weight_decay=0.0)
        experiment = replace(experiment, optimizer=faster, data=replace(whole.data, length=24))
    return base, _made(f"{Path(base).stem}_{name}", experiment)


def objectives() -> list[str]:
    """Three runs that differ in their objective alone: causal, masked and prefix; of equal size and FLOPs, on the same
    text, each evaluated on tasks that it has not seen."""
    runs = []
    for objective in (Causal(), Masked(), Prefix()):
        small = replace(_small(), objectives=(objective,))
        folder = _made(objective.name, replace(small, evaluation=replace(small.evaluation, samples=True)))
        evaluated(folder, ("docs_cloze",), limit=24)
        runs.append(folder)
    return runs


def evaluated(folder: str, tasks: Sequence[str], limit: int) -> None:
    """Asks a run the first questions of some tasks, unless it was asked already."""
    out, console = Path(folder) / "evaluation", _quiet()
    if not (out / "results.json").exists():
        options = evaluate.Options(tasks=tuple(tasks), limit=limit, untrained=False)
        evaluate.evaluate([folder], evaluate.questions(options, console), options, out, console)


def _small() -> Experiment:
    """The quickstart with a tenth of its parameters and less of everything else."""
    whole = command_line.read(ROOT / "configs" / "quickstart.py")
    return replace(
        whole,
        model=replace_fields(
            whole.model, {"width": 96, "depth": 2, "unroll": 2, "attention.heads": 4, "mlp.width": 192}
        ),
        data=replace(whole.data, tokenizer="train:900", length=64),
        schedule=replace(whole.schedule, steps=100),
        checkpoint=config.Checkpoint(every=25, keep_last=4),
        evaluation=Evaluation(every=25, batches=2, final_batches=4, samples=False),
        logging=QUIET,
    )


def _made(name: str, experiment: Experiment) -> str:
    folder = processes.cache_folder() / "runs" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".lock-{name}"):  # of two notebooks that want it, the second one waits
        if not (folder / "result.json").exists():
            print(f"training {folder}, once")
            processes.configure_jax()
            train(experiment, folder, _quiet())
    return str(folder)


def _quiet() -> Console:
    return Console(quiet=True)
