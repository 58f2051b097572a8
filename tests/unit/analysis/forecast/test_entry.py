"""Which comparisons a bank takes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.analysis.forecast.entry import finished_entry
from lowregret.errors import RecordsError
from lowregret.spec import AdamW


@pytest.fixture
def studies(load_module: Any) -> ModuleType:
    return load_module(Path(__file__).parents[2] / "report" / "studies.py")  # type: ignore[no-any-return]


def test_a_rate_that_decays_is_refused_by_its_field(studies: ModuleType, tmp_path: Path) -> None:
    asked = studies.spec(optimizer=AdamW(schedule="cosine"))
    studies.write_study(tmp_path, asked=asked)
    with pytest.raises(RecordsError, match=r"spec\.json: optimizer\.schedule is cosine, .* --schedule constant") as it:
        finished_entry(tmp_path)
    assert it.value.exit_code == 2


@pytest.mark.parametrize("name", ["full", "lora:1"])
def test_a_single_seed_is_refused_by_its_method(studies: ModuleType, tmp_path: Path, name: str) -> None:
    found = studies.verdict()
    methods = tuple(m.model_copy(update={"seeds": 1}) if m.name == name else m for m in found.methods)
    studies.write_study(tmp_path, found=found.model_copy(update={"methods": methods}))
    with pytest.raises(RecordsError, match=rf"verdict\.json: methods: {name} has 1 seed, .* --seeds 2 or more"):
        finished_entry(tmp_path)


@pytest.mark.parametrize(
    "other",
    [{"seeds": 0, "regret_nats": None, "test_nll": None}, {"name": "full:muon", "seeds": 1}],
    ids=["a LoRA that came to nothing", "full fine-tuning of which no forecast is made"],
)
def test_what_is_no_case_bars_no_other(studies: ModuleType, tmp_path: Path, other: dict[str, Any]) -> None:
    """The folder lacks a manifest: that is met only once the verdict has passed."""
    found = studies.verdict()
    methods = tuple(m.model_copy(update=other) if m.name == "lora:1" else m for m in found.methods)
    studies.write_study(tmp_path, found=found.model_copy(update={"methods": methods}))
    with pytest.raises(RecordsError, match="by this version"):
        finished_entry(tmp_path)


def test_a_comparison_without_plain_full_fine_tuning_is_refused(studies: ModuleType, tmp_path: Path) -> None:
    studies.write_study(tmp_path)
    stored = json.loads((tmp_path / "verdict.json").read_text())
    stored["methods"] = [method for method in stored["methods"] if method["name"] != "full"]
    (tmp_path / "verdict.json").write_text(json.dumps(stored))
    with pytest.raises(RecordsError, match=r"verdict\.json: methods: no loss of full is there"):
        finished_entry(tmp_path)
