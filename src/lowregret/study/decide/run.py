"""`lowregret compare --until-decided`: train what the contest asks for, look, and judge.

The folder is the whole state, as of any comparison: what comes next is a pure function of the trials that there are
and of the looks that there were. So a comparison that was killed goes on where it was, and one without the flag goes on
from what this has trained.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lowregret.analysis.decided import decided_reasons
from lowregret.analysis.forecast.banks import Bank
from lowregret.analysis.forecast.entry import entry_so_far
from lowregret.analysis.forecast.make import make_forecast
from lowregret.analysis.forecast.words import expected_lines
from lowregret.errors import LowregretError, RecordsError, SpecError
from lowregret.runs.atomic import read_record, write_json
from lowregret.runs.decision import Decision, Look
from lowregret.runs.files import DECISION, FORECAST, METRICS
from lowregret.runs.forecast import shown_forecast
from lowregret.runs.metrics import held_out_curve
from lowregret.runs.study import read_trials, start_loss, trial_folder
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec
from lowregret.strict_json import to_json
from lowregret.study.decide.contest import Ask, Contest, Judge
from lowregret.study.decide.looking import looked
from lowregret.study.decide.rungs import FIRST, rungs_of
from lowregret.study.decide.words import look_words, rules
from lowregret.study.opened import OpenedComparison
from lowregret.study.scheduler import going_on
from lowregret.train.schedule import eval_steps


def decide(comparison: OpenedComparison, bank: Bank | None) -> Verdict:
    """The verdict of a comparison that stops when it is decided; kept in its folder, with the winners' weights.

    Raises SpecError when no evaluation is early enough for a pilot; else as `runner.compare`.
    """
    watching = comparison.watching
    for line in going_on([record for record in read_trials(comparison.folder) if record.status != "failed"]):
        watching.say(line)
    failed: dict[str, str] = {}
    """In this session: such a trial is tried again by the next one, not by every stage."""
    forecast = False
    while True:
        contest = _contest(comparison)
        if contest.pilots_done and not forecast:
            _forecast(comparison, bank)
            forecast = True
        step = contest.next()
        if step is None:
            return _settle(comparison, contest)
        if isinstance(step, Ask):
            comparison.train(only=step.trials, until=step.until, given_up=failed)
            ended = read_trials(comparison.folder)
            failed |= {record.id: record.error or "" for record in ended if record.status == "failed"}
            continue
        comparison.rejudge()
        look = looked(step, _verdict(comparison, contest, step), contest)
        watching.say(look_words(look))
        write_json(comparison.folder / DECISION, _kept(comparison, contest, (*contest.looks, look)))


def require_rungs(spec: CompareSpec, steps: int) -> tuple[int, ...]:
    """The steps at which trials of so many are compared; SpecError when no evaluation is early enough for a pilot."""
    rungs = rungs_of(sorted(eval_steps(spec.evals, steps)), steps)
    if not rungs:
        raise SpecError(
            f"no held-out evaluation is within {FIRST:.0%} of the {steps} steps, where pilots are compared: ask for "
            "more of them (--evals 8, or a list of steps; in another --out where this one has begun), or leave out "
            "--until-decided."
        )
    return rungs


def _contest(comparison: OpenedComparison) -> Contest:
    folder, spec = comparison.folder, comparison.spec
    rungs = require_rungs(spec, comparison.inputs.steps)
    records = read_trials(folder)
    base = start_loss(folder)
    if base is None:
        raise RecordsError(f"{folder}: the base's held-out loss is not there. Run `compare` in another --out.")
    return Contest(
        spec=spec,
        priors=comparison.priors,
        records=records,
        curves={record.id: held_out_curve(trial_folder(folder, record.id) / METRICS) for record in records},
        base_loss=base,
        rungs=rungs,
        looks=_looks(comparison, folder / DECISION),
    )


def _looks(comparison: OpenedComparison, path: Path) -> tuple[Look, ...]:
    """Those that there were at this question."""
    if not path.exists():
        return ()
    found = read_record(Decision, path)
    return found.looks if found.question == _question(comparison) else ()


def _question(comparison: OpenedComparison) -> str:
    """Methods, tolerance and held-out examples, by digest."""
    spec = comparison.spec
    asked = spec.model_dump(mode="json", include={"methods", "tolerance", "tolerance_of", "learning_rates"})
    examples = len(comparison.inputs.data.test)
    return hashlib.sha256(to_json({**asked, "examples": examples}, sort_keys=True).encode()).hexdigest()


def _kept(comparison: OpenedComparison, contest: Contest, looks: tuple[Look, ...]) -> Decision:
    return contest.decision().model_copy(update={"looks": looks, "question": _question(comparison)})


def _verdict(comparison: OpenedComparison, contest: Contest, judged: Judge) -> Verdict:
    found = rules(contest.rungs, contest.spec.seeds)
    return comparison.verdict_of(judged.spec, judged.records, found, confidence=1 - judged.error)


def _settle(comparison: OpenedComparison, contest: Contest) -> Verdict:
    """The last look's verdict, with how it came about; where nothing could be looked at, that of all trials."""
    comparison.rejudge()
    judged = contest.last_judged()
    if judged is None:
        return comparison.judge()
    decision = _kept(comparison, contest, contest.looks)
    verdict = _verdict(comparison, contest, judged)
    said = (*verdict.reasons, *decided_reasons(decision, contest.spec.seeds))
    verdict = verdict.model_copy(update={"reasons": said, "decision": decision})
    write_json(comparison.folder / DECISION, decision)
    comparison.keep(verdict)
    return verdict


def _forecast(comparison: OpenedComparison, bank: Bank | None) -> None:
    """forecast.json, where the bank knows such cases: it decides nothing, and is shown beside the measurement."""
    path = comparison.folder / FORECAST
    there = shown_forecast(comparison.folder, comparison.watching.say)
    if bank is None or (there is not None and there.step > 0):  # one without pilots gives way to one by them
        return
    try:
        found = make_forecast(comparison.spec, entry_so_far(comparison.folder), bank, FIRST)
    except LowregretError as error:
        comparison.watching.say(f"no forecast: {error}")
        return
    write_json(path, found)
    for line in expected_lines(found, found.tolerance) or [
        "no forecast: the bank knows too little that is like this case"
    ]:
        comparison.watching.say(line)
