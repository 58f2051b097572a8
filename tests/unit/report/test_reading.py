"""A run folder is read as it was written, and its brackets are those that the trials show."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lowregret.errors import RecordsError
from lowregret.report.charts.words import label
from lowregret.report.reading import StudyRecords, load_study
from lowregret.runs.atomic import write_json
from lowregret.runs.decision import Decision
from lowregret.spec import FullFT, LoRA, Method
from lowregret.spec.conventions import CONVENTIONS

# Few values of each field, so that methods often differ in one only; two rates differ in the seventh digit.
_FACTORS = st.sampled_from([1.0, 16.0, 16.000001])
loras = st.builds(
    LoRA,
    rank=st.sampled_from([16, 32]),
    alpha=st.sampled_from([32.0, 8.0, 8.000001]),
    dropout=st.sampled_from([0.0, 0.1]),
    targets=st.sampled_from([("attention", "mlp"), ("mlp",), ("re:.*q_proj",)]),
    convention=st.sampled_from(CONVENTIONS),
    init=st.sampled_from(["uniform", "pissa", "olora", "orthogonal"]),
    scaling=st.sampled_from(["alpha/r", "alpha/sqrt(r)"]),
    a_rate=_FACTORS,
    b_rate=_FACTORS,
    dora=st.booleans(),
)


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


VARIANTS = {
    "lora:16:pissa": "LoRA (rank 16, PiSSA)",
    "lora:16:olora": "LoRA (rank 16, OLoRA)",
    "lora:16:orthogonal": "LoRA (rank 16, orthogonal init)",
    "lora:16:rslora": "LoRA (rank 16, rsLoRA)",
    "lora:16:dora": "LoRA (rank 16, DoRA)",
    "lora:16:lora+=16": "LoRA (rank 16, LoRA+ 16)",
    "lora:16:a_rate=0.5": "LoRA (rank 16, A's rate × 0.5)",
    "lora:16:init_scale=2": "LoRA (rank 16, initial A × 2)",
    "lora:16:per-total": "LoRA (rank 16, per-total)",
    "lora:16:shared-outer": "LoRA (rank 16, shared-outer)",
    "lora:16:full-rank-each:experts": "LoRA (rank 16, experts, full-rank-each)",
    "lora:16:alpha=8:dropout=0.1:pissa:dora:mlp": "LoRA (rank 16, mlp, PiSSA, DoRA, alpha 8, dropout 0.1)",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_labels_name_variants(name: str) -> None:
    assert label(TypeAdapter(Method).validate_python(name)) == VARIANTS[name]


@given(loras, loras)
def test_two_methods_have_two_labels(one: LoRA, other: LoRA) -> None:
    assert (label(one) == label(other)) == (one.name == other.name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "damaged"),
        ('{"command": "x"}', "it holds no spec"),
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


@pytest.mark.parametrize("content", ['{"forecasts": []}', "[", '{"forecasts": [], "tolerance": "much"}'])
def test_a_damaged_forecast_is_said_in_a_line_and_left_out(studies: ModuleType, tmp_path: Path, content: str) -> None:
    studies.write_study(tmp_path)
    (tmp_path / "forecast.json").write_text(content)
    said: list[str] = []
    study = load_study(tmp_path, said.append)
    assert study.forecast is None
    assert study.verdict == studies.verdict()
    (line,) = said
    assert line.startswith(f"no forecast is shown: {tmp_path / 'forecast.json'}: ")
    assert line.endswith("`lowregret forecast` with the same flags and --out writes it anew.")
    assert "\n" not in line
    assert load_study(tmp_path).forecast is None


def test_the_command_of_a_comparison_that_began_with_a_forecast_compares(tmp_path: Path, studies: ModuleType) -> None:
    studies.write_study(tmp_path, command="lowregret forecast --budget 10% --model tiny --out study")
    assert load_study(tmp_path).command == "lowregret compare --model tiny --out study"
    decision = Decision(error=0.05, looks=(), rungs=(2, 10), steps=5, usual_steps=10)
    verdict = studies.verdict()
    write_json(tmp_path / "verdict.json", verdict.model_copy(update={"decision": decision}))
    assert load_study(tmp_path).command.endswith(" --out study --until-decided")
    write_json(tmp_path / "decision.json", decision)
    write_json(tmp_path / "verdict.json", verdict)
    assert load_study(tmp_path).command.endswith(" --out study"), "it went on to be whole"
