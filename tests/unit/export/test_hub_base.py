"""What a base is called on the hub, and what licence it states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowregret.errors import SpecError
from lowregret.export.hub_base import Licence, base_label, base_licence, base_on_hub, require_hub_id


def folder(place: Path, named: str | None = None, card: str | None = None) -> str:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({} if named is None else {"_name_or_path": named}))
    if card is not None:
        (place / "README.md").write_text(card)
    return str(place)


def test_a_hub_id_is_its_own() -> None:
    assert base_on_hub("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


@pytest.mark.parametrize("base", ["tiny", "/nowhere/base", "a/b/c", "~/base", "../base", "a--b/c", "name"])
def test_what_is_no_hub_id_has_no_name(base: str) -> None:
    assert base_on_hub(base) is None


def test_a_relative_path_that_is_gone_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert base_on_hub("runs/base") is None


def test_the_hubs_cache_names_the_repository(tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / ("a" * 40)
    assert base_on_hub(folder(place)) == "Qwen/Qwen3-0.6B"
    (place / "model-q8.gguf").touch()
    assert base_on_hub(str(place / "model-q8.gguf")) == "Qwen/Qwen3-0.6B"


def test_a_folder_has_the_name_in_its_configuration_if_it_is_called_so(tmp_path: Path) -> None:
    assert base_on_hub(folder(tmp_path / "qwen3-0.6b", "Qwen/Qwen3-0.6B")) == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("named", ["/home/me/Qwen3-0.6B", "./qwen3", "Qwen/Qwen3-0.6B", "", "a/b/qwen3"])
def test_a_model_that_was_trained_further_is_not_what_it_was_made_from(tmp_path: Path, named: str) -> None:
    assert base_on_hub(folder(tmp_path / "qwen3", named)) is None


def test_a_base_without_a_name_is_called_by_the_last_part_of_its_path() -> None:
    assert [base_label(base) for base in ("/home/me/base/", "tiny", "C:\\x\\y.gguf", "./", "~")] == [
        "base", "tiny", "y.gguf", "base", "base",
    ]  # fmt: skip


def test_a_base_name_that_is_none_is_refused() -> None:
    assert require_hub_id("a/b", "--base-name") == "a/b"
    with pytest.raises(SpecError, match="--base-name '/home/me/base': is no name"):
        require_hub_id("/home/me/base", "--base-name")


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("license: apache-2.0", Licence(("apache-2.0",))),
        ("license: [mit, apache-2.0]", Licence(("mit", "apache-2.0"))),
        (
            "license: other\nlicense_name: own-1\nlicense_link: https://example.org/l",
            Licence(("other",), "own-1", "https://example.org/l"),
        ),
        ("license: other\nlicense_link: LICENSE", Licence(("other",))),  # of a base that is not on the hub
        ("license: other\nlicense_link: 'javascript:x'", Licence(("other",))),
        ("library_name: x", None),
        ('license: "mit\\n---\\n# injected"', None),
        ("license: {a: b}", None),
        ("license: [mit, 3]", None),
        ("- a list", None),
        ("license: 'unclosed", None),
    ],
)
def test_a_licence_is_told_only_as_the_base_states_it(tmp_path: Path, card: str, found: Licence | None) -> None:
    assert base_licence(folder(tmp_path / "base", card=f"---\n{card}\n---\n# x\n")) == found


def test_a_link_beside_a_base_on_the_hub_leads_there(tmp_path: Path) -> None:
    place = tmp_path / "models--a--b" / "snapshots" / "1"
    base = folder(place, card="---\nlicense: other\nlicense_link: LICENSE.txt\n---\n")
    assert base_licence(base) == Licence(("other",), None, "https://huggingface.co/a/b/blob/main/LICENSE.txt")


@pytest.mark.parametrize("base", ["tiny", "nowhere/at-all"])
def test_a_base_without_a_card_states_none(base: str) -> None:
    assert base_licence(base) is None
