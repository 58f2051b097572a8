"""`lowregret compare`: ask the search for trials, run them, judge, and keep the winners.

The folder is the whole state: what was done is read from it, and what comes next is a pure function of what was done.
So a study that was killed at any moment goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowregret.analysis.comparison import Examples
from lowregret.analysis.regret import judge
from lowregret.data.prepare import PreparedData
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.extension import as_begun, extend_spec, known_choices
from lowregret.runs.files import EXAMPLES, TRIAL, TRIALS, VERDICT
from lowregret.runs.lock import lock_run
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
from lowregret.spec import CompareSpec
from lowregret.study.observer import Observer, Silent
from lowregret.study.rejudge import Rejudging
from lowregret.study.resources import TrialResources, measure_base, note_costs
from lowregret.study.scheduler import Scheduler
from lowregret.study.search import describe
from lowregret.study.winners import keep_winners
from lowregret.train.inputs import RunInputs, confined, grading, open_inputs
from lowregret.train.interrupt import stop_requests
from lowregret.train.new_tokens import new_token_lines
from lowregret.train.replies import Replying


def compare(
    spec: CompareSpec,
    out: str | Path,
    *,
    command: str = "lowregret.compare(...)",
    observer: Observer | None = None,
) -> Verdict:
    """Answer "LoRA or full fine-tuning?" for a base and data, and leave the evidence in `out`.

    Started again with the same spec it goes on, and repeats at most the steps since the last checkpoint. With more
    seeds, methods, listed rates or held-out examples it trains what is missing (`runs.extension`). Raises
    LowregretError, or Interrupted after a clean stop.
    """
    watching = observer or Silent()
    with lock_run(Path(out)) as folder:
        verdict, inputs = _judged(spec, folder, command, watching)
        Replying(folder, inputs, watching.say).write()
        return verdict


def _judged(spec: CompareSpec, folder: Path, command: str, watching: Observer) -> tuple[Verdict, RunInputs]:
    """Everything up to the winners and the verdict; no engine is left when it ends."""
    say = watching.say
    with stop_requests(say) as should_stop, grading(spec, say) as grader:
        session = environment() | confined(grader)
        spec = as_begun(folder, spec, say)
        inputs = open_inputs(spec, say, known_choices(folder))
        for line in inputs.advice(spec.methods):
            say(line)
        priors = {method.name: inputs.prior(method).value for method in spec.methods}
        resolved = {**inputs.resolved, "priors": priors}
        inputs.require_manifest(folder, watching.say)
        priors = extend_spec(folder, spec, resolved, command, inputs.first_test_data)
        note_manifest(folder, inputs.manifest)
        make_folder(folder / TRIALS)
        resources = TrialResources(spec, inputs, grader, say)
        measure_base(folder, resources)
        note_costs(folder, resources)
        scheduler = Scheduler(folder, spec, priors, watching, inputs.identity)
        if isinstance(inputs.data, PreparedData) and scheduler.wanted():
            for line in new_token_lines(resources.engine(), inputs.data.train, spec.methods):
                say(line)
        scheduler.run(resources, session, should_stop)
        Rejudging(folder, spec, resources, watching).run(session, should_stop)
        records = read_trials(folder)
        verdict = judge(
            spec,
            records,
            _losses(folder, records),
            start_loss(folder),
            environment_of(folder),
            describe(spec),
            curves=read_curves(folder, records),
            costs=read_costs(folder),
            held_out=inputs.resolved.get("held_out"),
            quantised=quantised_starts(folder),
        )
        keep_winners(folder, verdict, records)
        write_json(folder / VERDICT, verdict)
        return verdict, inputs


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
