"""What of other runs counts as a group's own training, and what has changed since it was looked at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.errors import RecordsError, SpecError
from lowregret.runs.atomic import write_json
from lowregret.runs.manifest import Manifest
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import ExampleLosses, Metric, TrialRecord
from lowregret.spec import DataSpec, GroupSpec, LoRA, TrialSpec
from lowregret.study.elsewhere import runs_below, take_over, trained_elsewhere
from lowregret.study.observer import Silent
from lowregret.study.scheduler import Scheduler

METHOD = LoRA(rank=4)
TRIAL = TrialSpec(method=METHOD, learning_rate=1e-3)
DATA: dict[str, Any] = {"model": "tiny", "data": DataSpec(train="builtin:arithmetic")}
GROUP = GroupSpec(**DATA, condition="a", methods=(METHOD,), steps=8, evals=(2, 8), learning_rates=(1e-3,), seeds=1)
RESOLVED = {
    "steps": 8, "train_examples": 60, "test_examples": 4, "train_data": "t", "test_data": "e", "device": "cpu",
    "dtype": "float32",
}  # fmt: skip
MANIFEST = Manifest(base={"weights": "b"}, train="t", test="e", versions={"lowregret": "1"})


def make(folder: Path, **record: Any) -> Path:
    """A run of another program with one trial; its trial's folder."""
    home = folder / "trials" / TRIAL.id
    home.mkdir(parents=True)
    write_json(folder / "spec.json", {"lowregret": "9", "spec": GROUP.model_dump(mode="json"), "resolved": RESOLVED})
    write_json(folder / "manifest.json", MANIFEST)
    fields = {"status": "finished", "steps": 8, "test_nll": 0.5, "test_examples": 4, **record}
    write_json(home / "trial.json", TrialRecord.of(TRIAL, **fields))
    for step in range(1, 9):
        append_metric(home / "metrics.jsonl", Metric(step=step, train_nll=0.4, tokens=5, seconds=1.0, test_nll=0.5))
    write_json(home / "examples.json", ExampleLosses(nll_sums=(1.0, 1.0), tokens=(2, 2)))
    return home


def found(run: Path, spec: GroupSpec = GROUP, manifest: Manifest = MANIFEST, **resolved: Any) -> tuple[bool, str]:
    """Whether the trial is taken to be the group's, and what is said."""
    said: list[str] = []
    there = trained_elsewhere([run], spec, manifest, RESOLVED | resolved, said.append)
    return TRIAL in there, "".join(said)


def test_the_same_training_is_the_groups_own(tmp_path: Path) -> None:
    make(tmp_path)
    assert found(tmp_path) == (True, f"{tmp_path}: 1 trials are of this training")
    newer = MANIFEST.model_copy(update={"versions": {"lowregret": "2"}})
    assert found(tmp_path, manifest=newer)[1].endswith("begun with other versions: lowregret 1 then, 2 now")


@pytest.mark.parametrize(
    ("spec", "resolved", "why"),
    [
        ({"steps": None, "epochs": 1.0}, {}, "steps differs"),  # as many steps, but the last batch is smaller
        ({"batch_size": 4}, {}, "batch_size differs"),
        ({"evals": (4, 8)}, {}, "evals differ"),
        ({"forgetting": "builtin:corpus"}, {}, "needs weights|measured with weights"),
        ({}, {"dtype": "bfloat16"}, "dtype differs"),
        ({}, {"test_data": "other"}, "test_data differs"),
    ],
)
def test_another_training_is_not(tmp_path: Path, spec: Any, resolved: Any, why: str) -> None:
    make(tmp_path)
    taken, said = found(tmp_path, GROUP.model_copy(update=spec), **resolved)
    assert not taken
    assert any(part in said for part in why.split("|")), said


def test_rewards_of_another_version_are_not(tmp_path: Path) -> None:
    make(tmp_path)
    rewarded = GroupSpec(**DATA, condition="a", methods=(METHOD,), objective={"kind": "rl", "task": "math"})
    newer = MANIFEST.model_copy(update={"versions": {"lowregret": "2"}})
    assert "rewards were given by other versions" in found(tmp_path, rewarded, newer)[1]


@pytest.mark.parametrize("record", [{"status": "pruned"}, {"search_nll": 0.4}, {"test_examples": 3}])
def test_a_trial_that_did_not_end_by_itself_or_was_judged_by_others_is_not(tmp_path: Path, record: Any) -> None:
    make(tmp_path, **record)
    assert not found(tmp_path)[0]


def test_what_is_damaged_or_gone_is_said_and_left_out(tmp_path: Path) -> None:
    make(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text("{")
    assert "it cannot be read" in found(tmp_path / "run")[1]
    assert "not to be seen from here" in found(tmp_path / "nowhere")[1]


def test_a_trial_is_looked_at_again_when_it_is_taken(tmp_path: Path) -> None:
    home = make(tmp_path / "run")
    target = tmp_path / "own" / "trials" / TRIAL.id
    target.mkdir(parents=True)
    (target / "failures.jsonl").write_text("of an attempt of ours")
    record = take_over(home, target, GROUP, RESOLVED, "mine")
    assert record is not None
    assert (record.inputs, record.taken_from) == ("mine", str(home))
    assert {path.name for path in target.iterdir()} == {"trial.json", "metrics.jsonl", "examples.json"}
    again = take_over(target, tmp_path / "third", GROUP, RESOLVED, "theirs")
    assert again is not None
    assert again.taken_from == str(home), "where it was trained"
    write_json(home / "trial.json", record.model_copy(update={"status": "running", "id": home.name}))
    assert take_over(home, tmp_path / "fourth", GROUP, RESOLVED, "mine") is None
    (home / "trial.json").unlink()
    assert take_over(home, tmp_path / "fourth", GROUP, RESOLVED, "mine") is None
    (target / "examples.json").write_text("{")
    with pytest.raises(RecordsError, match=r"examples\.json"):
        take_over(target, tmp_path / "fifth", GROUP, RESOLVED, "mine")


def test_a_study_takes_nothing_from_itself(tmp_path: Path) -> None:
    own, other = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    for study in (own, other):
        make(study / "groups" / "main.lora")
    assert runs_below([tmp_path / "runs"], [own]) == [other / "groups" / "main.lora"]
    assert runs_below([other], [own]) == [other / "groups" / "main.lora"]
    with pytest.raises(RecordsError, match="holds no trials of another run"):
        runs_below([own], [own])
    with pytest.raises(SpecError, match="name folders"):
        runs_below([Path("s3://lab/study")], [own])


def test_what_was_in_training_at_the_checkpoint_goes_on_here(tmp_path: Path) -> None:
    spec = GROUP
    asked: list[Path] = []

    def take(source: Path, target: Path) -> TrialRecord:
        asked.append(source)
        write_json(target / "trial.json", TrialRecord.of(TRIAL, status="diverged"))
        return TrialRecord.of(TRIAL, status="diverged")

    (tmp_path / "trials" / TRIAL.id).mkdir(parents=True)
    scheduler = Scheduler(
        tmp_path, spec, {METHOD.name: 1e-3}, Silent(), "", elsewhere={TRIAL: Path("x/y/z")}, take=take
    )
    scheduler._checkpoint = SimpleNamespace(members=[SimpleNamespace(trial=TRIAL)])  # type: ignore[assignment]
    scheduler._take_over()
    assert not asked
    scheduler._checkpoint = None
    scheduler._take_over()
    assert [record.status for record in scheduler.records] == ["diverged"]
    assert scheduler.wanted() == []
