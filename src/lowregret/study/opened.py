"""A comparison's folder, opened: everything that its trials are run and judged with, until it is closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lowregret.analysis.comparison import Examples
from lowregret.analysis.forecast.words import beside
from lowregret.analysis.interval import CONFIDENCE
from lowregret.analysis.regret import judge
from lowregret.data.prepare import PreparedData
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.extension import as_begun, extend_spec, known_choices
from lowregret.runs.files import EXAMPLES, TRIAL, TRIALS, VERDICT
from lowregret.runs.forecast import shown_forecast, unsaid
from lowregret.runs.manifest import note_manifest
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import (
    environment_of,
    quantised_starts,
    read_costs,
    read_curves,
    read_examples,
    read_trials,
    start_loss,
    trial_folder,
)
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, TrialSpec
from lowregret.study.observer import Observer
from lowregret.study.price import comparison_price
from lowregret.study.rejudge import Rejudging
from lowregret.study.resources import TrialResources, measure_base, note_costs
from lowregret.study.scheduler import Scheduler
from lowregret.study.search import describe
from lowregret.study.winners import keep_winners
from lowregret.train.inputs import RunInputs, confined, grading, open_inputs
from lowregret.train.interrupt import stop_requests
from lowregret.train.new_tokens import new_token_lines
from lowregret.train.pause import forget_pause


@dataclass(frozen=True)
class OpenedComparison:
    """What a comparison's trials are run with. Its folder is locked by whoever opened it."""

    spec: CompareSpec
    """As the folder has it."""
    folder: Path
    inputs: RunInputs
    priors: Mapping[str, float]
    """Method → the learning rate that its search starts from."""
    resources: TrialResources
    watching: Observer
    session: Mapping[str, str | int]
    should_stop: Callable[[], bool]

    def train(
        self,
        *,
        only: Sequence[TrialSpec] | None = None,
        until: int | None = None,
        given_up: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Train what the search asks for, or `only` these trials, none of which is stopped early; `until` a step if
        one is given, and none that is `given_up` (`Scheduler`). When all that the search asks for has been trained to
        its end, the pilots that it did not ask for have ended."""
        spec = self.spec if only is None else self.spec.model_copy(update={"prune": None})
        scheduler = Scheduler(
            self.folder,
            spec,
            self.priors,
            self.watching,
            self.inputs.identity,
            only=only,
            until=until,
            given_up=given_up,
        )
        if isinstance(self.inputs.data, PreparedData) and scheduler.wanted():
            engine, rows = self.resources.engine(), self.inputs.data.train
            for line in new_token_lines(engine, rows, self.spec.methods):
                self.watching.say(line)
        scheduler.run(self.resources, self.session, self.should_stop)
        if only is None and until is None:
            scheduler.put_aside()

    def judge(self) -> Verdict:
        """The verdict of the trials that there are; kept in the folder, with the winners' weights."""
        self.rejudge()
        verdict = self.verdict_of(self.spec, read_trials(self.folder), describe(self.spec))
        self.keep(verdict)
        return verdict

    def rejudge(self) -> None:
        """Judge the trials at the best rates by as many held-out examples as are asked for by now."""
        Rejudging(self.folder, self.spec, self.resources, self.watching).run(self.session, self.should_stop)

    def verdict_of(
        self, spec: CompareSpec, records: Sequence[TrialRecord], rules: Sequence[str], confidence: float = CONFIDENCE
    ) -> Verdict:
        """Of these trials, which are the folder's or are taken for ended earlier than they were."""
        found = judge(
            spec,
            records,
            _losses(self.folder, records),
            start_loss(self.folder),
            environment_of(self.folder),
            rules,
            curves=read_curves(self.folder, records),
            costs=read_costs(self.folder),
            held_out=self.inputs.resolved.get("held_out"),
            quantised=quantised_starts(self.folder),
            confidence=confidence,
        )
        expected = shown_forecast(self.folder, unsaid)
        said = () if expected is None else beside(expected, found)
        return found.model_copy(update={"reasons": (*found.reasons, *said)})

    def keep(self, verdict: Verdict) -> None:
        """In the folder, with the winners' weights."""
        keep_winners(self.folder, verdict, read_trials(self.folder))
        write_json(self.folder / VERDICT, verdict)


@contextmanager
def opened(
    spec: CompareSpec,
    folder: Path,
    command: str,
    watching: Observer,
    until: Callable[[int], int] | None = None,
) -> Iterator[OpenedComparison]:
    """A comparison in a locked folder, new or begun before, its base measured; no engine is left when it ends.

    What its trials take is told first. `until` says of the steps of a trial how many are to be trained: all when None.
    """
    say = watching.say
    with stop_requests(say) as should_stop, grading(spec, say) as grader:
        forget_pause(folder, say)
        session = environment() | confined(grader)
        spec = as_begun(folder, spec, say)
        inputs = open_inputs(spec, say, known_choices(folder))
        for line in inputs.advice(spec.methods):
            say(line)
        priors = {method.name: inputs.prior(method).value for method in spec.methods}
        resolved = {**inputs.resolved, "priors": priors}
        inputs.require_manifest(folder, say)
        trained = None if until is None else until(inputs.steps)
        if trained != 0:
            watching.priced(comparison_price(spec, inputs, folder, trained))
        priors = extend_spec(folder, spec, resolved, command, inputs.first_test_data)
        note_manifest(folder, inputs.manifest)
        make_folder(folder / TRIALS)
        resources = TrialResources(spec, inputs, grader, say)
        measure_base(folder, resources)
        note_costs(folder, resources)
        yield OpenedComparison(spec, folder, inputs, priors, resources, watching, session, should_stop)


def _losses(folder: Path, records: Sequence[TrialRecord]) -> dict[str, Examples]:
    found = {}
    for record in (record for record in records if record.status == "finished"):
        home = trial_folder(folder, record.id)
        try:
            found[record.id] = read_examples(home / EXAMPLES)
        except RecordsError as error:
            problem = str(error).partition(" Delete")[0]
            raise RecordsError(
                f"{problem} Delete {home / TRIAL} and run the same command again: the trial is repeated."
            ) from None
    return found
