"""The user's bank beside the one that comes with lowregret."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.analysis.forecast.banks import bank_if_readable, bundled_bank, load_bank
from lowregret.errors import RecordsError
from lowregret.runs.bank import BankEntry, write_bank


def cut(entry: BankEntry, *names: str) -> BankEntry:
    """A comparison of the same run with fewer methods."""
    return entry.model_copy(update={"methods": tuple(m for m in entry.methods if m.name in names)})


def cases(entries: tuple[BankEntry, ...] | list[BankEntry]) -> list[tuple[str, str]]:
    return sorted((e.identity, m.name) for e in entries for m in e.methods if m.regret_nats is not None)


def test_an_own_comparison_of_fewer_methods_hides_no_lora_of_a_bundled_one(tmp_path: Path) -> None:
    bundled = bundled_bank()
    own = cut(bundled[0], "full", "lora:1")
    write_bank(tmp_path / "own.jsonl", [own])
    found = load_bank(tmp_path / "own.jsonl")
    assert cases(found.entries) == cases(bundled)
    assert found.entries[-1] == own
    assert found.own == 1
    assert "lora:1" not in {method.name for method in found.entries[0].methods}


def test_the_same_comparison_measured_again_is_the_users_alone(tmp_path: Path) -> None:
    bundled = bundled_bank()
    write_bank(tmp_path / "own.jsonl", [bundled[0]])
    found = load_bank(tmp_path / "own.jsonl")
    assert [*found.entries] == [*bundled[1:], bundled[0]]


def test_a_bank_in_which_a_run_stands_twice_counts_it_once(tmp_path: Path) -> None:
    """Two banks written one after the other into a file."""
    own = cut(bundled_bank()[0], "full", "lora:1").model_copy(update={"identity": "mine"})
    write_bank(tmp_path / "own.jsonl", [own, own])
    assert load_bank(tmp_path / "own.jsonl").own == 1


def test_what_is_shown_alone_goes_on_without_a_bank_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    said: list[str] = []
    bank = bank_if_readable(said.append)
    assert bank is not None
    assert bank.own == 0
    (tmp_path / "lowregret").mkdir()
    (tmp_path / "lowregret" / "bank.jsonl").write_text('{"version": 2}\n')
    with pytest.raises(RecordsError, match="is of version 2"):
        load_bank()
    assert bank_if_readable(said.append) is None
    (line,) = said
    assert line.startswith("no forecast: ")
    assert "bank.jsonl:1: is of version 2" in line
