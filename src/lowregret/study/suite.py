"""`lowregret study`: the groups of one question or of many, trained side by side, judged, and put on a page.

OUT/study.json              the question with every default, and its claims as they were stated before the run
OUT/groups/<group>/         a group's trials (study.group), or OUT/timings/ for the question of compute
OUT/claims.json             what became of each claim, a pure function of the above (questions.judge); with it a study
                            is finished
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from lowregret.data.readers.registry import open_source
from lowregret.engine.parallel.launch import dismiss, started_by_torchrun
from lowregret.errors import DataError, ModelError, RecordsError
from lowregret.foreign_text import without_secrets
from lowregret.models.load import load_config, resolve
from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.questions.evidence import stored_question
from lowregret.questions.judge import Claims
from lowregret.questions.question import Question
from lowregret.questions.registry import Asked, statements
from lowregret.runs.atomic import make_folder, remove_file, write_json
from lowregret.runs.files import CLAIMS, SPEC, STUDY, TIMINGS
from lowregret.runs.lock import lock_run, require_targets
from lowregret.runs.spelling import is_older
from lowregret.runs.study import group_folder, read_trials
from lowregret.spec import FullFT, LoRA
from lowregret.study.budget import Allowed, Budget
from lowregret.study.elsewhere import runs_below
from lowregret.study.execute.choose import Chosen, Place, choose, require_place
from lowregret.study.execute.job import GroupJob
from lowregret.study.execute.run import GroupRun, require_room
from lowregret.study.execute.stored import Kept, kept
from lowregret.study.group import require_extension
from lowregret.study.lattice import anchor_of, bracket, lattice_rate, losses_at
from lowregret.study.observer import Silent, StudyObserver
from lowregret.study.price import study_price
from lowregret.study.stages import Stages
from lowregret.study.timing import time_steps
from lowregret.study.tracking.tracker import Track
from lowregret.train.interrupt import Interrupted, stop_requests
from lowregret.train.pause import forget_pause
from lowregret.version import __version__


def run_studies(
    studies: Mapping[Path, Question],
    *,
    place: Place | None = None,
    command: str = "lowregret.study.suite.run_studies(...)",
    observer: StudyObserver | None = None,
    track: Track | None = None,
    settle: bool = False,
    budget: Allowed | None = None,
    stores: Mapping[Path, str] | None = None,
    take_from: Sequence[Path] = (),
) -> dict[Path, Claims]:
    """Run each question in its folder; started again it goes on, and a question that asks for more extends the folder.

    `place` says where groups are trained side by side: in as many processes as cores for a small base on a CPU, else in
    this one. Results do not depend on it but by rounding. `track` is where every trial is a run as well. With `settle`
    a question gets no further seeds once all its claims are settled (`study.settle`); a `budget` is spent on further
    seeds of what is open. `stores`: a study's folder → the address where it is kept as well. `take_from`: folders of
    other studies and comparisons, whose trials are taken over where a group asks for the same. Returns the claims of
    those that have them: all, but where a budget was too small. Raises LowregretError, or Interrupted after a clean
    stop.
    """
    watching, place = observer or Silent(), place or Place()
    runs = runs_below(take_from, studies)
    require_place(place, list(studies.values()))
    _require_inputs(studies.values())
    with ExitStack() as stack:
        stores = stores or {}
        copies: dict[Path, Kept | None] = {}
        for folder, question in studies.items():
            stack.enter_context(lock_run(folder))  # first: what a store has is written where nobody else writes
            copies[folder] = stack.enter_context(kept(folder, stores.get(folder)))
            for paused in (folder, *(group_folder(folder, group) for group in question.groups())):
                forget_pause(paused, watching.say)
            _require_question(folder, question)
        asked_to_stop = stack.enter_context(stop_requests(watching.say))
        stages = Stages(studies, watching.say, settle=settle)
        limits: list[Budget] = []

        def should_stop() -> bool:
            return asked_to_stop() or any(limit.over() for limit in limits)

        if any(question.groups() for question in studies.values()):
            chosen = choose(place, studies, watching, should_stop, track, stores)
            stack.callback(chosen.executor.close)
            stages.place(chosen.machines, chosen.at_once, chosen.devices)
            jobs = stages.first()
            require_room(chosen.executor, jobs)
            watching.priced(study_price(jobs, chosen.at_once, chosen.hardware))
            if budget is not None:
                limits.append(Budget(budget, chosen.price_per_hour(jobs)))
            _bind_all(copies, studies, command)
            bind = partial(_bind_question, command=command)
            _train(chosen, stages, jobs, watching, (asked_to_stop, should_stop), track, limits, bind, stores, runs)
        else:
            _bind_all(copies, studies, command)
        for folder, question in studies.items():  # last, when nothing else runs
            if isinstance(question, ComputeQuestion):
                if question.devices > 1:
                    watching.say(f"{question.name}: steps are timed on one device, whatever --devices says")
                if started_by_torchrun() is None:
                    dismiss()  # nobody else is to be at work
                time_steps(question, folder / TIMINGS, watching.say, asked_to_stop)
                stages.judge(folder)
        return {folder: stages.claims[folder] for folder in studies if folder in stages.claims}


def _train(
    chosen: Chosen,
    stages: Stages,
    jobs: Sequence[GroupJob],
    watching: StudyObserver,
    stops: tuple[Callable[[], bool], Callable[[], bool]],
    track: Track | None,
    limits: Sequence[Budget],
    bind: Callable[[Path, Question], None],
    stores: Mapping[Path, str],
    take_from: Sequence[Path],
) -> None:
    """All groups; with a budget, for as long as it lasts, and further seeds of what is open with what it leaves.

    `stops`: whether the user asks to stop, and whether anything does.
    """
    asked_to_stop, should_stop = stops
    limit = next(iter(limits), None)
    watching.say(f"{len(jobs)} groups of trials on {chosen.executor.name}, {chosen.at_once} at a time")
    run = GroupRun(
        chosen.executor,
        watching,
        should_stop,
        starts=_starts,
        ended=stages.ended,
        threads=chosen.threads,
        track=track,
        expected=chosen.expected,
        stores=stores,
        take_from=take_from,
    )
    try:
        run.run(jobs)
        while limit is not None and (more := stages.next_seed(limit, bind)):
            run.run(more)
    except Interrupted:
        if asked_to_stop() or limit is None:
            raise
        watching.say("the budget is spent: what was in training goes on from its checkpoint with the same command")
        stages.give_back(bind)
    if limit is not None:
        watching.say(f"budget: {limit}")


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


def _bind_all(copies: Mapping[Path, Kept | None], studies: Mapping[Path, Question], command: str) -> None:
    """Have the questions in their folders, and in their stores. Once all that was asked for can be had: whoever asks a
    finished study for more, at an address that does not answer, finds its claims as they were."""
    for folder, copy in copies.items():
        _bind_question(folder, studies[folder], command)
        if copy is not None:
            copy.push(claim=True)


def _require_question(folder: Path, question: Question) -> dict[str, Any]:
    """The study.json of a folder, {} where there is none; RecordsError when the folder belongs to another question."""
    path = folder / STUDY
    asked = Asked(question=question).model_dump(mode="json")
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
    for group in question.groups():  # what is there must stay as it is judged
        require_extension(group_folder(folder, group), group)
    return stored


def _bind_question(folder: Path, question: Question, command: str) -> None:
    """study.json: the question asked last; RecordsError when the folder belongs to another kind of question."""
    stored = _require_question(folder, question)
    asked = without_secrets(Asked(question=question).model_dump(mode="json"))
    make_folder(folder)
    stated = [statement.model_dump(mode="json") for statement in statements(question)]
    if stored.get("question") != asked["question"] or is_older(stored.get("lowregret")):  # claims of another question
        remove_file(folder / CLAIMS)
    write_json(folder / STUDY, {"lowregret": __version__, "command": command, **asked, "claims": stated})


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
