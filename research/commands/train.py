"""The command `train CONFIG [--workdir DIR] [--FIELD VALUE …]`: trains, evaluates, and shows the result."""

from rich.console import Console
from rich.text import Text

from research.commands import command_line
from research.runtime import processes


def main(arguments: list[str]) -> None:
    chosen = command_line.train(arguments)
    from research.analysis import page  # only now, so that a mistake on the command line is told at once
    from research.runs import replay, tracing, trainer

    traced = tracing.steps(chosen.profile, chosen.experiment.schedule.steps)
    processes.configure_jax(chosen.experiment.compilation_cache_dir)
    processes.initialize()
    console = Console(quiet=not processes.is_main_process())
    if chosen.replay is not None:
        replay.replay(chosen.experiment, chosen.workdir, chosen.replay, console)
        return
    trainer.train(chosen.experiment, chosen.workdir, console, traced, chosen.resume_from, chosen.resume_schedule)
    if processes.is_main_process():
        try:
            console.print(Text(f"report: {page.write([chosen.workdir])}"), soft_wrap=True)
        except Exception as error:  # the run is complete without it
            console.print(Text(f"the report could not be written: {type(error).__name__}: {error}"))
