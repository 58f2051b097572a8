"""Every public method of Tinker's SDKs has an answer in docs/guides/tinker.md."""

from __future__ import annotations

from tools import tinker_methods

TEXT = tinker_methods.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_its_command_writes() -> None:
    assert tinker_methods.page(TEXT) == TEXT, "stale: python tools/tinker_methods.py"
    assert tinker_methods.END in TEXT


def test_the_comparison_sees_a_change() -> None:
    assert tinker_methods.page(TEXT.replace("| yes |", "| no |")) == TEXT


def test_each_method_is_answered_and_nothing_else_is() -> None:
    known = tinker_methods.methods()
    assert len(known) >= 2, "two versions, at least"
    for name, answers in tinker_methods.ANSWERS.items():
        found = set().union(*(own.get(name, set()) for own in known.values()))
        assert found == set(answers), name
    assert set().union(*(set(own) for own in known.values())) == set(tinker_methods.ANSWERS)
