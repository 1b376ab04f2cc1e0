"""The evaluators of a run, asked when it is their turn and after the last step."""

from collections.abc import Sequence

from research import config
from research.evaluation.tasks import Questions
from research.inference.language_model import LanguageModel
from research.models import Params
from research.runs.evaluators import Evaluator, Moment, due
from research.runs.evaluators.held_out import HeldOut
from research.runs.evaluators.probes import Probes
from research.runs.evaluators.samples import Samples
from research.runs.evaluators.tasks import Tasks
from research.runs.log import Log
from research.runs.prepared import Prepared
from research.training.state import TrainState


class Evaluators:
    """Those that the experiment asks for, in the order in which they are asked."""

    def __init__(self, run: Prepared, questions: tuple[Questions, ...], state: TrainState, log: Log) -> None:
        self.run, self.log = run, log
        settings, before = run.experiment.evaluation, self._moment(int(state.step), state.params)
        self.held_out = HeldOut(run)
        self.probes = Probes(run, before, log.print) if settings.probes != config.Probes() else None
        tasks = Tasks(run, questions, before) if questions else None
        samples = Samples(run, log.print) if settings.samples else None
        self.all: list[Evaluator] = [each for each in (self.held_out, self.probes, tasks, samples) if each]

    def due(self, done: int, save: bool) -> list[Evaluator]:
        """Those to ask after so many steps; where the best checkpoint is kept, every save needs the held-out loss."""
        turn = due(self.all, done) if done < self.run.experiment.schedule.steps else []
        needed = save and self.run.experiment.checkpoint.keep_best and self.held_out not in turn
        return [self.held_out, *turn] if needed else turn

    def evaluate(self, evaluators: Sequence[Evaluator], done: int, params: Params) -> None:
        """Asks them, and records what they say."""
        if evaluators:
            self._ask(evaluators, self._moment(done, params))

    def finish(self, done: int, params: Params) -> None:
        """Asks all of them after the last step. These records are made again if the run is started again."""
        self._ask(self.all, self._moment(done, params, final=True))

    def loss(self, evaluators: Sequence[Evaluator]) -> float | None:
        """By which the best checkpoint is known, if it was among those just asked."""
        return self.held_out.mean if self.held_out in evaluators else None

    def _ask(self, evaluators: Sequence[Evaluator], moment: Moment) -> None:
        for evaluator in evaluators:
            with self.log.clock.on("evaluating"):
                said = evaluator.evaluate(moment)
            if said:
                final = {"final": True} if moment.final else {}
                self.log.record({"kind": evaluator.kind, "step": moment.step, **said, **final})

    def _moment(self, step: int, params: Params, final: bool = False) -> Moment:
        experiment, tokenizer = self.run.experiment, self.run.corpus.tokenizer
        return Moment(step, params, LanguageModel(experiment.model, params, tokenizer, experiment.objectives), final)
