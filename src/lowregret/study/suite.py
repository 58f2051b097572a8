"""`lowregret study`: the groups of one question or of many, trained side by side, judged, and put on a page.

OUT/study.json              the question with every default, and its claims as they were stated before the run
OUT/groups/<group>/         a group's trials (study.group), or OUT/timings/ for the question of compute
OUT/claims.json             what became of each claim, a pure function of the above (questions.judge); with it a study
                            is finished
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowregret.data.readers.registry import open_source
from lowregret.engine.parallel.launch import dismiss, started_by_torchrun
from lowregret.errors import DataError, ModelError, RecordsError
from lowregret.foreign_text import without_secrets
from lowregret.models.load import load_config, resolve
from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.questions.evidence import read_evidence, stored_question
from lowregret.questions.judge import Claims, judge_study
from lowregret.questions.question import Question
from lowregret.questions.registry import Asked, statements
from lowregret.runs.atomic import make_folder, remove_file, write_json
from lowregret.runs.boundary import within
from lowregret.runs.files import CLAIMS, GROUPS, SPEC, STUDY, TIMINGS
from lowregret.runs.lock import lock_run, require_targets
from lowregret.runs.spelling import is_older
from lowregret.runs.study import group_folder, read_trials
from lowregret.spec import FullFT, LoRA
from lowregret.study.execute.choose import Place, choose, require_place
from lowregret.study.execute.job import GroupJob
from lowregret.study.execute.run import GroupRun
from lowregret.study.group import require_extension
from lowregret.study.lattice import anchor_of, bracket, lattice_rate, losses_at
from lowregret.study.needs import Machines, group_cost
from lowregret.study.observer import Silent, StudyObserver
from lowregret.study.order import in_order
from lowregret.study.timing import time_steps
from lowregret.study.tracking.tracker import Track
from lowregret.train.interrupt import stop_requests
from lowregret.version import __version__


def run_studies(
    studies: Mapping[Path, Question],
    *,
    place: Place | None = None,
    command: str = "lowregret.study.suite.run_studies(...)",
    observer: StudyObserver | None = None,
    track: Track | None = None,
) -> dict[Path, Claims]:
    """Run each question in its folder; started again it goes on, and a question that asks for more extends the folder.

    `place` says where groups are trained side by side: in as many processes as cores for a small base on a CPU, else in
    this one. Results do not depend on it but by rounding. `track` is where every trial is a run as well. Raises
    LowregretError, or Interrupted after a clean stop.
    """
    watching, place = observer or Silent(), place or Place()
    require_place(place, list(studies.values()))
    _require_inputs(studies.values())
    with ExitStack() as stack:
        for folder, question in studies.items():
            stack.enter_context(lock_run(folder))
            _bind_question(folder, question, command)
        should_stop = stack.enter_context(stop_requests(watching.say))
        found = _Judged(studies)
        if found.waited_for:
            chosen = choose(place, studies, watching, should_stop, track)
            stack.callback(chosen.executor.close)
            jobs = in_order(_with_costs(found.jobs, chosen.machines), chosen.at_once)
            watching.say(f"{len(jobs)} groups of trials on {chosen.executor.name}, {chosen.at_once} at a time")
            run = GroupRun(
                chosen.executor,
                watching,
                should_stop,
                starts=_starts,
                ended=found.ended,
                threads=chosen.threads,
                track=track,
                expected=chosen.expected,
            )
            run.run(jobs)
        for folder, question in studies.items():  # last, when nothing else runs
            if isinstance(question, ComputeQuestion):
                if question.devices > 1:
                    watching.say(f"{question.name}: steps are timed on one device, whatever --devices says")
                if started_by_torchrun() is None:
                    dismiss()  # nobody else is to be at work
                time_steps(question, folder / TIMINGS, watching.say, should_stop)
                found.claims[folder] = _judged(folder)
        return {folder: found.claims[folder] for folder in studies}


class _Judged:
    """The claims of those studies whose groups are all trained: they can be read while the others train."""

    def __init__(self, studies: Mapping[Path, Question]) -> None:
        self.jobs = [job for folder, question in studies.items() for job in _jobs(folder, question)]
        self.waited_for = Counter(job.study for job in self.jobs)
        self.claims: dict[Path, Claims] = {}

    def ended(self, job: GroupJob) -> Sequence[GroupJob]:
        """A group is trained; nothing else is to be."""
        self.waited_for[job.study] -= 1
        if not self.waited_for[job.study]:
            self.claims[job.study] = _judged(job.study)
        return ()


def _with_costs(jobs: Sequence[GroupJob], machines: Machines) -> list[GroupJob]:
    """What each needs, and how long it takes, by the plan."""
    costs = [group_cost(job.spec, machines) for job in jobs]
    return [replace(job, needs=cost.needs, seconds=cost.seconds) for job, cost in zip(jobs, costs, strict=True)]


def _require_inputs(questions: Collection[Question]) -> None:
    """Before a folder is made: ModelError names the question and its field where a base cannot be had, and DataError
    the data where no question has its own. One that has none ends its own study, when others have their claims.
    """
    for question in questions:
        field = "models" if "models" in type(question).model_fields else "model"
        for model in dict.fromkeys(group.model for group in question.groups()):
            try:
                load_config(resolve(model))
            except ModelError as error:
                raise ModelError(f"question {question.name!r}, field {field!r}: {error}") from error
    lost = [error for error in map(_lost_data, questions) if error is not None]
    if lost and len(lost) == len(questions):
        raise lost[0]


def _lost_data(question: Question) -> DataError | None:
    """Why a source of a question cannot be opened, if one cannot."""
    try:
        for group in question.groups():
            for source in filter(None, (group.data.train, group.data.eval)):
                open_source(source)
    except DataError as error:
        return error
    return None


def _judged(folder: Path) -> Claims:
    """A finished study's claims, which it now has in its folder."""
    found = judge_study(read_evidence(folder))
    write_json(folder / CLAIMS, found)
    return found


def _bind_question(folder: Path, question: Question, command: str) -> None:
    """study.json: the question asked last; RecordsError when the folder belongs to another kind of question."""
    make_folder(folder)
    path = folder / STUDY
    asked = without_secrets(Asked(question=question).model_dump(mode="json"))
    stored: dict[str, Any] = {}
    kind = question.name
    if path.exists():
        stored = stored_question(path)
        there = stored["question"].get("kind")
        if there != kind:
            raise RecordsError(f"{path}: belongs to the question {there!r}, not to {kind!r}. Use another --out.")
        require_targets(path, stored["question"], asked["question"])
    elif (folder / SPEC).exists():
        raise RecordsError(f"{folder}: belongs to `lowregret compare` or `train`. Use another --out.")
    for group in question.groups():  # before study.json is replaced: what is there must stay as it is judged
        require_extension(group_folder(folder, group), group)
    stated = [statement.model_dump(mode="json") for statement in statements(question)]
    if stored.get("question") != asked["question"] or is_older(stored.get("lowregret")):  # claims of another question
        remove_file(folder / CLAIMS)
    write_json(path, {"lowregret": __version__, "command": command, **asked, "claims": stated})


def _jobs(folder: Path, question: Question) -> list[GroupJob]:
    found = []
    for group in question.groups():
        kind = group.key.rpartition(".")[2]
        after = None if group.start_from is None else within(folder / GROUPS, f"{group.start_from}.{kind}")
        label = f"{question.name} {group.key}"
        found.append(GroupJob(group_folder(folder, group), group, label, after))
    return found


def _starts(job: GroupJob) -> dict[str, float]:
    """The best rates of the group that a job starts from, as far as they are bracketed there."""
    if job.after is None:
        return {}
    records = read_trials(job.after)

    def best(method: FullFT | LoRA) -> float | None:
        own = [record for record in records if record.method == method.name]
        found = bracket(losses_at(own, None, lambda record: {}))
        return None if found is None else lattice_rate(found[1])

    common = best(anchor_of(job.spec.methods))
    found = {method.name: best(method) or common for method in job.spec.methods}
    return {name: rate for name, rate in found.items() if rate is not None}
