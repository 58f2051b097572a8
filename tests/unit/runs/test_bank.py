"""The file of finished comparisons: what is added to it, and what becomes of what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import RecordsError
from lowregret.runs.bank import BankEntry, BankMethod, RateCurve, added, mend_bank, parse_bank, read_bank, write_bank

CURVE = RateCurve(learning_rate=1e-3, losses={4: 2.0, 8: 1.5})


def entry(*loras: str, run: str = "run", loss: float | None = 1.5, regret: float | None = 0.1) -> BankEntry:
    full = BankMethod(name="full", parameters=1000, curves=(CURVE,), loss=loss)
    others = (BankMethod(name=name, parameters=10, curves=(CURVE,), loss=1.6, regret_nats=regret) for name in loras)
    return BankEntry(
        identity=run,
        base="base",
        data="data",
        steps=8,
        batch_size=4,
        epochs=1.0,
        supervised_tokens=100,
        base_nll=3.0,
        methods=(full, *others),
    )


def loras(entries: list[BankEntry]) -> list[list[str]]:
    return [[method.name for method in found.methods if method.name != "full"] for found in entries]


def test_comparisons_of_other_methods_of_the_same_run_stay_with_their_own_full_fine_tuning() -> None:
    first, second = entry("lora:1", loss=1.5), entry("lora:4", loss=1.4)
    assert added(added([], first), second) == [first, second]


def test_a_lora_that_is_measured_again_is_taken_from_the_newer_comparison_alone() -> None:
    old, new = entry("lora:1", "lora:4", loss=1.5), entry("lora:4", loss=1.4)
    found = added([old], new)
    assert loras(found) == [["lora:1"], ["lora:4"]]
    assert [each.methods[0].loss for each in found] == [1.5, 1.4]
    assert added(found, old) == [old]
    assert added([old], old) == [old]


def test_a_comparison_of_which_nothing_can_be_forecast_takes_no_others_place() -> None:
    old = entry("lora:1")
    without_full, failed = entry("lora:1", loss=None), entry("lora:1", regret=None)
    assert added([old], without_full) == [old, without_full]
    assert added([old], failed) == [old, failed]
    assert added([old], entry("lora:1", run="another"))[0] == old


def test_full_fine_tuning_by_another_optimizer_is_no_lora_of_which_a_forecast_could_be() -> None:
    alone, beside = entry("full:muon"), entry("lora:1", "full:muon")
    assert alone.measured() == ()
    assert [method.name for method in beside.measured()] == ["lora:1"]
    assert added([beside], alone) == [beside, alone]
    assert added([alone], beside) == [alone, beside]


def bank_of(folder: Path, *lines: str) -> Path:
    path = folder / "own.jsonl"
    write_bank(path, [entry("lora:1")])
    path.write_text(path.read_text() + "".join(lines))
    return path


@pytest.mark.parametrize("blank", ["\n", "  \n\n", "\r\n"])
def test_blank_lines_are_no_entries(tmp_path: Path, blank: str) -> None:
    path = bank_of(tmp_path, blank)
    assert read_bank(path) == [entry("lora:1")]
    assert mend_bank(path) == ([entry("lora:1")], "")
    assert [file.name for file in tmp_path.iterdir()] == ["own.jsonl"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"version": 2, "what": 1}\n', "line 3: is of version 2 of the bank, and this lowregret reads 1"),
        ('{"version": 1, "identity": "cut o', "line 3: damaged (Invalid JSON"),
    ],
)
def test_a_line_that_cannot_be_read_costs_no_other_and_the_file_is_kept_as_it_was(
    tmp_path: Path, line: str, said: str
) -> None:
    path = bank_of(tmp_path, "\n", line)
    content = path.read_bytes()
    with pytest.raises(RecordsError, match=rf"own\.jsonl:3: .*`lowregret bank add RUN --bank .*{path.name}`"):
        read_bank(path)
    for name in ("own.jsonl.unreadable", "own.jsonl.unreadable.2", "own.jsonl.unreadable.3"):
        found, told = mend_bank(path)
        assert found == [entry("lora:1")]
        assert (tmp_path / name).read_bytes() == content
        assert f"1 line cannot be read ({said}" in told
        assert f"kept as {tmp_path / name}, " in told


def test_a_file_of_no_text_is_named_by_its_line_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\xff\xfe\n\x80\n")
    with pytest.raises(RecordsError, match=r"own\.jsonl:1: damaged"):
        read_bank(path)
    found, told = mend_bank(path)
    assert not found
    assert "2 lines cannot be read (line 1: damaged" in told
    assert (tmp_path / "own.jsonl.unreadable").read_bytes() == b"\xff\xfe\n\x80\n"


def test_a_folder_in_the_banks_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").mkdir()
    with pytest.raises(RecordsError, match="is a folder"):
        mend_bank(tmp_path / "own.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["own.jsonl"]


def test_a_bank_is_parsed_from_text_as_from_a_file() -> None:
    assert parse_bank("\n" + entry("lora:1").model_dump_json() + "\n\n", "bank") == [entry("lora:1")]
