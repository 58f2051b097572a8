"""What of each question is trained, and in which steps: all seeds at once, or one more after a look at its claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import MIN_SEEDS, Claims, judge_study
from lowregret.questions.question import Question
from lowregret.runs.atomic import write_json
from lowregret.runs.boundary import within
from lowregret.runs.files import CLAIMS, GROUPS
from lowregret.runs.study import group_folder, read_trials
from lowregret.study.budget import Budget
from lowregret.study.execute.job import GroupJob
from lowregret.study.needs import Machines, group_cost, spread
from lowregret.study.order import in_order
from lowregret.study.settle import is_settled, openness

_PASSES = 0.5
"""Of its part of a GPU: what the activations of a pass may take."""


@dataclass
class _Stage:
    """One question."""

    question: Question
    """As it is asked now."""
    seeds: int
    """That are trained in this stage, of those that it asks for."""
    waited_for: int = 0
    """Groups of the stage that are not trained yet."""
    claims: Claims | None = None
    settled: bool = False
    before: Question | None = None
    """As it was when it had its claims, while a further seed is trained."""


class Stages:
    """The questions of one start of `lowregret study`."""

    def __init__(self, studies: Mapping[Path, Question], say: Callable[[str], None], *, settle: bool = False) -> None:
        """`settle`: look at a question's claims after the third and each further seed; stop when all are settled."""
        self._say, self._settle = say, settle
        self._machines, self._at_once, self._devices = Machines(), 1, 1
        self._stages = {
            folder: _Stage(question, min(MIN_SEEDS, question.seeds) if settle else question.seeds)
            for folder, question in studies.items()
        }

    def place(self, machines: Machines, at_once: int, devices: int | None = None) -> None:
        """Where they are trained: what the workers have, how many groups are at work at a time, and how many GPUs there
        are for them; as many as groups when None."""
        self._machines, self._at_once, self._devices = machines, at_once, devices or at_once

    @property
    def claims(self) -> dict[Path, Claims]:
        """Of the studies that have them."""
        return {folder: stage.claims for folder, stage in self._stages.items() if stage.claims is not None}

    def first(self) -> list[GroupJob]:
        """What is trained first, in order."""
        return self._ordered([job for folder in self._stages for job in self._jobs(folder)])

    def ended(self, job: GroupJob) -> Sequence[GroupJob]:
        """A group is trained: what of its question is to be trained as well."""
        stage = self._stages[job.study]
        stage.waited_for -= 1
        if stage.waited_for:
            return ()
        stage.settled = self._settle and is_settled(judge_seeds(job.study, stage.seeds), stage.seeds)
        if stage.settled and stage.seeds < stage.question.seeds:
            self._say(f"{stage.question.name}: settled with {stage.seeds} seeds; {stage.question.seeds} were asked for")
        if stage.settled or stage.seeds >= stage.question.seeds:
            self.judge(job.study)
            return ()
        stage.seeds += 1
        return self._ordered(self._jobs(job.study))

    def judge(self, folder: Path) -> None:
        """A finished study's claims, which it now has in its folder: read while others train."""
        found = judge_study(read_evidence(folder))
        write_json(folder / CLAIMS, found)
        self._stages[folder].claims, self._stages[folder].before = found, None

    def give_back(self, bind: Callable[[Path, Question], None]) -> None:
        """What a budget ended in the middle of: a question has the claims that it had before its further seed."""
        for folder, stage in self._stages.items():
            if stage.before is None:
                continue
            stage.question, stage.seeds = stage.before, stage.before.seeds
            bind(folder, stage.question)
            self._say(f"{stage.question.name}: seed {stage.seeds} is not trained to its end; its claims are without it")
            self.judge(folder)

    def next_seed(self, budget: Budget, bind: Callable[[Path, Question], None]) -> list[GroupJob]:
        """One more seed of the questions that are most open, as many as have room and time; [] when there is none.

        `bind` is told of each question as it is asked from now on.
        """
        found: list[GroupJob] = []
        open_by = {folder: openness(claims, self._stages[folder].seeds) for folder, claims in self.claims.items()}
        for folder in sorted(open_by, key=lambda folder: -open_by[folder]):
            stage = self._stages[folder]
            if len(found) >= self._at_once:
                break
            if not open_by[folder]:
                continue
            takes = seed_seconds(folder, stage.question, stage.seeds - 1, self._at_once)
            if takes > budget.left:
                self._say(f"{stage.question.name}: is open; one more seed takes longer than what is left of the budget")
                continue
            stage.seeds += 1
            stage.before = stage.question
            stage.question = stage.question.model_copy(update={"seeds": stage.seeds})
            stage.claims = None
            bind(folder, stage.question)
            self._say(f"{stage.question.name}: its widest interval is open; seed {stage.seeds - 1} of it is trained")
            found += self._jobs(folder)
        return self._ordered(found)

    def _jobs(self, folder: Path) -> list[GroupJob]:
        """The groups of a question's stage."""
        stage = self._stages[folder]
        found = []
        for group in stage.question.groups():
            kind = group.key.rpartition(".")[2]
            after = None if group.start_from is None else within(folder / GROUPS, f"{group.start_from}.{kind}")
            spec = group.model_copy(update={"seeds": min(stage.seeds, group.seeds)})
            found.append(GroupJob(group_folder(folder, group), spec, f"{stage.question.name} {group.key}", after))
        stage.waited_for = len(found)
        return found

    def _ordered(self, jobs: Sequence[GroupJob]) -> list[GroupJob]:
        """With what each needs by the plan, and how long it takes."""
        counts = spread([job.spec for job in jobs], self._machines, self._devices)
        found = []
        for job, count in zip(jobs, counts, strict=True):
            spec = job.spec if count == job.spec.devices else job.spec.model_copy(update={"devices": count})
            cost = group_cost(spec, self._machines)
            gpu = self._machines.hardware
            if (
                gpu is not None and 0 < cost.needs.gpus < 1 and spec.memory_gb is None
            ):  # its part holds other things, too
                own = _PASSES * cost.needs.gpus * gpu.memory_bytes / 1e9
                spec = spec.model_copy(update={"memory_gb": own})
            found.append(replace(job, spec=spec, needs=cost.needs, seconds=cost.seconds))
        return in_order(found, self._at_once)


def judge_seeds(folder: Path, seeds: int) -> Claims:
    """What a study's claims would be with its first so many seeds: the same whenever it is asked."""
    found = read_evidence(folder)
    conditions = {
        name: replace(condition, trials=tuple(trial for trial in condition.trials if trial.record.seed < seeds))
        for name, condition in found.conditions.items()
    }
    question = found.question.model_copy(update={"seeds": seeds})
    return judge_study(replace(found, question=question, conditions=conditions))


def seed_seconds(folder: Path, question: Question, seed: int, at_once: int) -> float:
    """What a seed of a question takes where so many groups train side by side, as the trials of one took: as long as
    its longest group, and as all of them shared evenly."""
    taken: dict[str, float] = defaultdict(float)
    for group in question.groups():
        records = [record for record in read_trials(group_folder(folder, group)) if record.seed == seed]
        here = [record for record in records if record.taken_from is None]
        taken[group.key] += sum(record.seconds for record in here or records)
    return max(max(taken.values(), default=0.0), sum(taken.values()) / at_once)
