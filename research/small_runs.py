"""The runs that notebooks show: those of the README where they were made, else small ones.

A small run is made once and kept in the cache folder, beside prepared data.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from research import command_line, config, evaluate, runtime
from research.config import Causal, Data, Evaluation, Experiment, Lora, Masked, Optimizer, Prefix, Schedule
from research.train import train
from research.training import checkpoint

ROOT = Path(__file__).resolve().parent.parent
SENTENCE = "Welcome to New York Zoo"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def quickstart() -> str:
    """The run of `configs/quickstart.py`, or a small one like it."""
    trained = ROOT / "runs" / "quickstart"
    return str(trained) if checkpoint.steps(trained) else _made("small_quickstart", _small())


def pretrained() -> str:
    """SmolLM2, if it was fetched, else the quickstart's run."""
    fetched = runtime.cache_folder() / "models" / SMOLLM2
    return str(fetched) if fetched.exists() else quickstart()


def new_york_zoo(adapters: bool = False) -> tuple[str, str]:
    """A checkpoint before and after training on one sentence, as a whole or through adapters alone: SmolLM2 where it
    was fetched and trained as `configs/new_york_zoo.py` says, else the quickstart's run."""
    name = "new_york_zoo_lora" if adapters else "new_york_zoo"
    trained = ROOT / "runs" / name
    if checkpoint.steps(trained):
        return str(config.load(trained / "experiment.json").initialize_from), str(trained)
    base = quickstart()
    text = runtime.cache_folder() / "runs" / "new_york_zoo.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(SENTENCE)
    experiment = Experiment(
        model=config.Model(lora=Lora(rank=4) if adapters else None),
        data=Data(source=f"text:{text}", held_out=f"text:{text}", length=24, batch=1),
        optimizer=Optimizer(learning_rate=5e-3 if adapters else 1e-3, weight_decay=0.0),
        schedule=Schedule(steps=10, warmup=2, name="linear", final=0.0),
        evaluation=Evaluation(every=0, samples=False),
        logging=config.Logging(tensorboard=False),
        initialize_from=base,
    )
    return base, _made(f"{Path(base).name}_{name}", experiment)


def objectives() -> list[str]:
    """Three runs that differ in their objective alone: causal, masked and prefix; of equal size and FLOPs, on the same
    text, each evaluated on tasks that it has not seen."""
    runs = []
    for objective in (Causal(), Masked(), Prefix()):
        small = replace(_small(), objectives=(objective,))
        folder = _made(objective.name, replace(small, evaluation=replace(small.evaluation, samples=True)))
        evaluated(folder, ("docs_cloze", "copying"), limit=24)
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
        model=replace(whole.model, width=96, depth=2, heads=4, mlp_width=192, unroll=2),
        data=replace(whole.data, tokenizer="train:1024", length=64),
        schedule=replace(whole.schedule, steps=120),
        checkpoint=config.Checkpoint(every=40, keep_last=3),
        evaluation=Evaluation(every=40, batches=2, final_batches=4, samples=False),
        logging=config.Logging(tensorboard=False),
    )


def _made(name: str, experiment: Experiment) -> str:
    folder = runtime.cache_folder() / "runs" / name
    if not (folder / "result.json").exists():
        runtime.start()
        train(experiment, folder, _quiet())
    return str(folder)


def _quiet() -> Console:
    return Console(file=io.StringIO())
