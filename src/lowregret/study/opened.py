"""A comparison's folder, opened: everything that its trials are run and judged with, until it is closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lowregret.analysis.comparison import Examples
from lowregret.analysis.regret import judge
from lowregret.data.prepare import PreparedData
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.extension import as_begun, extend_spec, known_choices
from lowregret.runs.files import EXAMPLES, TRIAL, TRIALS, VERDICT
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

    def train(self, *, only: Sequence[TrialSpec] | None = None, until: int | None = None) -> None:
        """Train what the search asks for, `only` these trials, or the search's `until` a step (`Scheduler`)."""
        scheduler = Scheduler(
            self.folder, self.spec, self.priors, self.watching, self.inputs.identity, only=only, until=until
        )
        if isinstance(self.inputs.data, PreparedData) and scheduler.wanted():
            engine, rows = self.resources.engine(), self.inputs.data.train
            for line in new_token_lines(engine, rows, self.spec.methods):
                self.watching.say(line)
        scheduler.run(self.resources, self.session, self.should_stop)

    def judge(self) -> Verdict:
        """The verdict of the trials that there are, on as many held-out examples as are asked for by now; kept in the
        folder, with the winners' weights."""
        Rejudging(self.folder, self.spec, self.resources, self.watching).run(self.session, self.should_stop)
        records = read_trials(self.folder)
        verdict = judge(
            self.spec,
            records,
            _losses(self.folder, records),
            start_loss(self.folder),
            environment_of(self.folder),
            describe(self.spec),
            curves=read_curves(self.folder, records),
            costs=read_costs(self.folder),
            held_out=self.inputs.resolved.get("held_out"),
            quantised=quantised_starts(self.folder),
        )
        keep_winners(self.folder, verdict, records)
        write_json(self.folder / VERDICT, verdict)
        return verdict


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
        session = environment() | confined(grader)
        spec = as_begun(folder, spec, say)
        inputs = open_inputs(spec, say, known_choices(folder))
        for line in inputs.advice(spec.methods):
            say(line)
        priors = {method.name: inputs.prior(method).value for method in spec.methods}
        resolved = {**inputs.resolved, "priors": priors}
        inputs.require_manifest(folder, say)
        watching.priced(comparison_price(spec, inputs, folder, None if until is None else until(inputs.steps)))
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
