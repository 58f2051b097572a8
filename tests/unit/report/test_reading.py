"""A run folder is read as it was written, and its brackets are those that the trials show."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from lowregret.errors import RecordsError
from lowregret.report import StudyRecords, load_study
from lowregret.report.reading import label
from lowregret.spec import FullFT, LoRA


def test_everything_written_is_read(study: StudyRecords, studies: ModuleType) -> None:
    written = studies.ordinary_trials()
    assert {trial.id: trial for trial in study.trials} == {trial.id: trial for trial in written}
    assert study.verdict == studies.verdict()
    assert study.spec == studies.spec()
    assert study.command == studies.COMMAND
    assert all(study.metrics[trial.id] == tuple(studies.metrics(trial)) for trial in written)


def test_trials_are_in_the_order_of_the_methods_then_the_rates(study: StudyRecords) -> None:
    methods = [trial.method for trial in study.trials]
    assert methods == sorted(methods, key=["lora:16", "lora:1", "full"].index)
    rates = [trial.learning_rate for trial in study.trials if trial.method == "full"]
    assert rates == sorted(rates)


def test_bracket_is_the_nearest_worse_rate_on_each_side(study: StudyRecords) -> None:
    bracket = study.bracket("full")
    assert bracket is not None
    assert (bracket.below, bracket.best, bracket.above) == (9.6e-5, 3e-4, 9.6e-4)


def test_bracket_counts_a_diverged_and_a_pruned_trial_but_not_a_failed_one(tmp_path: Path, studies: ModuleType) -> None:
    full = FullFT()
    trials = [
        studies.trial(full, 3e-4),
        studies.unfinished(full, 1e-4, "failed"),
        studies.unfinished(full, 3e-5, "pruned", test_nll=1.9),
        studies.unfinished(full, 1e-3, "diverged"),
    ]
    bracket = load_study(studies.write_study(tmp_path, trials=trials)).bracket("full")
    assert bracket is not None
    assert (bracket.below, bracket.above) == (3e-5, 1e-3)


def test_bracket_is_open_where_no_rate_did_worse(tmp_path: Path, studies: ModuleType) -> None:
    trials = [studies.trial(FullFT(), rate) for rate in (9.6e-5, 3e-4)]
    bracket = load_study(studies.write_study(tmp_path, trials=trials)).bracket("full")
    assert bracket is not None
    assert (bracket.below, bracket.above) == (9.6e-5, None)


def test_labels_leave_defaults_out() -> None:
    assert label(FullFT()) == "Full fine-tuning"
    assert label(LoRA(rank=16)) == "LoRA (rank 16)"
    assert label(LoRA(rank=4, alpha=8, targets=("mlp",))) == "LoRA (rank 4, mlp, alpha 8)"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "damaged"),
        ('{"command": "x"}', "no field 'spec'"),
        ('{"command": "x", "spec": {"model": "tiny", "colour": 1}}', "colour"),
    ],
)
def test_a_bad_spec_file_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "spec.json").write_text(content)
    with pytest.raises(RecordsError, match=says) as caught:
        load_study(tmp_path)
    assert "spec.json" in str(caught.value)


def test_an_unfinished_study_says_how_to_finish_it(tmp_path: Path, studies: ModuleType) -> None:
    studies.write_study(tmp_path)
    (tmp_path / "verdict.json").unlink()
    with pytest.raises(RecordsError, match=r"Run the same `lowregret compare` again"):
        load_study(tmp_path)
