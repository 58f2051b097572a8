"""Which seeds of which question are trained, on studies that nobody trained."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lowregret.questions.evidence import stored_question
from lowregret.questions.question import Question
from lowregret.questions.registry import make_question
from lowregret.runs.study import group_folder, read_trials
from lowregret.spec import GroupSpec, LoRA, TrialSpec
from lowregret.study.budget import Allowed, Budget
from lowregret.study.execute.job import GroupJob
from lowregret.study.stages import Stages, judge_seeds, seed_seconds
from unit.study import fake_studies

QUESTION = {"kind": "early", "ranks": [1, 4], "seeds": 6}


def clear(group: GroupSpec, trial: TrialSpec, step: int) -> float:
    """Rank 4 is better than rank 1, by far more than seeds differ."""
    assert isinstance(trial.method, LoRA)
    return 2.0 - 0.05 * step**0.5 * trial.method.rank + random.Random(trial.id).gauss(0, 1e-6)


def vague(group: GroupSpec, trial: TrialSpec, step: int) -> float:
    """Seeds differ by more than ranks."""
    return 2.0 + random.Random(f"{trial.id} {step}").gauss(0, 0.1)


class Trained:
    """A study whose groups are trained as soon as they are asked for."""

    def __init__(self, folder: Path, question: Question, loss: fake_studies.Loss, *, settle: bool) -> None:
        self.folder, self.loss = folder, loss
        self.said: list[str] = []
        self.seeds: list[int] = []
        """Of each stage."""
        self.head(folder, question)
        self.stages = Stages({folder: question}, self.said.append, settle=settle)

    def head(self, folder: Path, question: Question) -> None:
        fake_studies.head(folder, question)

    def train(self, jobs: list[GroupJob]) -> None:
        while jobs:
            job = jobs.pop()
            self.seeds.append(job.spec.seeds)
            fake_studies.train(job.folder, job.spec, self.loss)
            jobs += self.stages.ended(job)


def test_without_a_look_all_seeds_are_trained_at_once(tmp_path: Path) -> None:
    study = Trained(tmp_path / "s", make_question(QUESTION), clear, settle=False)
    study.train(study.stages.first())
    assert study.seeds == [6]
    assert study.stages.claims[study.folder].kind == "early"


@pytest.mark.parametrize(("loss", "seeds"), [(clear, [3]), (vague, [3, 4, 5, 6])])
def test_further_seeds_are_spared_once_all_is_settled(
    loss: fake_studies.Loss, seeds: list[int], tmp_path: Path
) -> None:
    study = Trained(tmp_path / "s", make_question(QUESTION), loss, settle=True)
    study.train(study.stages.first())
    assert study.seeds == seeds
    assert any("settled with 3 seeds; 6 were asked for" in line for line in study.said) == (seeds == [3])
    again = Stages({study.folder: make_question(QUESTION)}, study.said.append, settle=True)
    more = list(again.first())
    for seed in seeds:  # started again, it looks at the same records and comes to the same end
        assert [job.spec.seeds for job in more] == [seed]
        more = list(again.ended(more[0]))
    assert not more


def test_a_look_at_fewer_seeds_is_what_it_was_then(tmp_path: Path) -> None:
    question = make_question({**QUESTION, "seeds": 3})
    fake_studies.make(tmp_path / "few", question, vague)
    fake_studies.make(tmp_path / "many", make_question(QUESTION), vague)
    few, many = judge_seeds(tmp_path / "few", 3), judge_seeds(tmp_path / "many", 3)
    assert [claim.estimate for claim in few.claims] == [claim.estimate for claim in many.claims]


def test_a_budget_goes_to_what_is_open_for_as_long_as_a_seed_fits(tmp_path: Path) -> None:
    study = Trained(tmp_path / "s", make_question({**QUESTION, "seeds": 3}), vague, settle=False)
    study.train(study.stages.first())
    bound: list[int] = []

    def bind(folder: Path, question: Question) -> None:
        bound.append(question.seeds)
        study.head(folder, question)

    now = 0.0
    budget = Budget(Allowed(seconds=100.0), None, lambda: now)
    study.train(study.stages.next_seed(budget, bind))
    assert bound == [4]
    assert study.seeds == [3, 4]
    now = 99.0  # each of the two trials of a seed takes a second
    assert study.stages.next_seed(budget, bind) == []
    assert any("one more seed takes longer than what is left" in line for line in study.said)


def test_what_is_settled_gets_nothing_of_a_budget(tmp_path: Path) -> None:
    study = Trained(tmp_path / "s", make_question({**QUESTION, "seeds": 3}), clear, settle=False)
    study.train(study.stages.first())
    assert study.stages.next_seed(Budget(Allowed(seconds=1e6), None), lambda *_: None) == []


def test_what_a_budget_ends_in_the_middle_of_leaves_the_claims_that_there_were(tmp_path: Path) -> None:
    study = Trained(tmp_path / "s", make_question({**QUESTION, "seeds": 3}), vague, settle=False)
    study.train(study.stages.first())
    before = (study.folder / "claims.json").read_bytes()

    def bind(folder: Path, question: Question) -> None:
        study.head(folder, question)
        (folder / "claims.json").unlink(missing_ok=True)

    assert study.stages.next_seed(Budget(Allowed(seconds=100.0), None), bind)
    assert not study.stages.claims
    study.stages.give_back(bind)
    assert (study.folder / "claims.json").read_bytes() == before
    assert list(study.stages.claims) == [study.folder]
    assert stored_question(study.folder / "study.json")["question"]["seeds"] == 3
    study.stages.give_back(bind)
    assert (study.folder / "claims.json").read_bytes() == before


def test_groups_that_train_one_after_another_take_a_seed_longer(tmp_path: Path) -> None:
    question = make_question({"kind": "learning-rate", "ranks": [1, 4], "seeds": 3})
    fake_studies.make(tmp_path / "s", question)
    folders = [group_folder(tmp_path / "s", group) for group in question.groups()]
    each = [sum(record.seconds for record in read_trials(folder) if record.seed == 2) for folder in folders]
    assert len(each) == 2
    assert all(each)
    assert seed_seconds(tmp_path / "s", question, 2, 1) == sum(each)
    assert seed_seconds(tmp_path / "s", question, 2, 2) == max(each)
