"""Publishing, against a stand-in of the hub's HTTP interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.errors import HubError, RecordsError, SpecError
from lowregret.export.push import push


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def arrived(hub: Any, name: str = "me/x") -> dict[str, bytes]:
    return {path: content for path, content in hub.repositories[name].files.items() if path != ".gitattributes"}


def test_every_file_arrives_to_the_byte_in_one_commit(shipped: Path, hub: Any) -> None:
    (shipped / "additional_chat_templates").mkdir()
    (shipped / "additional_chat_templates" / "tool use.jinja").write_text("{{ messages }}ä")
    (shipped / "empty.txt").touch()
    assert push(shipped, "me/x") == f"{hub.address}/me/x"
    assert arrived(hub) == bytes_of(shipped)
    assert sum("/commit/" in line for line in hub.asked) == 1
    assert hub.repositories["me/x"].private


def test_a_name_alone_is_the_users_own(shipped: Path, hub: Any) -> None:
    hub.user = "somebody"
    assert push(shipped, "x", private=False) == f"{hub.address}/somebody/x"
    assert not hub.repositories["somebody/x"].private


def test_hidden_files_stay_here(shipped: Path, hub: Any) -> None:
    (shipped / ".git").mkdir()
    (shipped / ".git" / "config").write_text("secret")
    (shipped / ".env").write_text("secret")
    push(shipped, "me/x")
    assert not [path for path in arrived(hub) if path.startswith(".")]


def test_a_repository_that_holds_something_is_replaced_only_when_asked(shipped: Path, hub: Any) -> None:
    push(shipped, "me/x")
    hub.repositories["me/x"].files["old.bin"] = b"old"
    with pytest.raises(SpecError, match=r"holds \d files already .* --overwrite"):
        push(shipped, "me/x")
    assert arrived(hub)["old.bin"] == b"old"
    (shipped / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 32}')
    push(shipped, "me/x", overwrite=True)
    assert arrived(hub) == bytes_of(shipped)


def test_a_public_repository_does_not_get_what_was_meant_to_be_private(shipped: Path, hub: Any) -> None:
    push(shipped, "me/x", private=False)
    with pytest.raises(SpecError, match="is public already"):
        push(shipped, "me/x", overwrite=True)


@pytest.mark.parametrize(
    ("part", "fault", "said"),
    [
        ("repos/create", 401, "hf auth login"),
        ("repos/create", 403, "right to write"),
        ("/commit/", 409, "another change"),
        ("/commit/", 500, "has failed"),
        ("/commit/", "cut", "cannot be reached, or broke off"),
        ("repos/create", "cut", "cannot be reached, or broke off"),
        ("/blob/", 403, "right to write"),
        ("/commit/", "change", "arrived as other bytes"),
    ],
)
def test_what_goes_wrong_is_named_with_its_remedy(
    shipped: Path, hub: Any, hubs: ModuleType, part: str, fault: int | str, said: str
) -> None:
    hub.fails[part] = fault
    with pytest.raises(HubError, match=said) as caught:
        push(shipped, "me/x")
    assert caught.value.exit_code == 2
    assert hubs.TOKEN not in str(caught.value)
    if fault != "change":
        assert not arrived(hub) if "me/x" in hub.repositories else True


def test_an_upload_that_breaks_off_is_tried_again(shipped: Path, hub: Any) -> None:
    hub.fails["/blob/"] = "once"
    push(shipped, "me/x")
    assert arrived(hub) == bytes_of(shipped)
    assert sum(line.startswith("PUT /blob/") for line in hub.asked) == 2


def test_the_token_goes_to_the_hub_and_nowhere_else(
    shipped: Path, hub: Any, hubs: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    push(shipped, "me/x")
    assert set(hub.told) <= {f"Bearer {hubs.TOKEN}", ""}
    printed = capfd.readouterr()
    assert hubs.TOKEN not in printed.out + printed.err


@pytest.mark.parametrize("name", ["", "a/b/c", "a--b/c", "../x", "a b", "a/" + "x" * 97, "-x/y"])
def test_a_name_that_is_none_is_refused_before_anything_is_sent(shipped: Path, hub: Any, name: str) -> None:
    with pytest.raises(SpecError, match="is no name of a repository"):
        push(shipped, name)
    assert hub.asked == []


def test_nobody_is_logged_in(shipped: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowregret.export.push.get_token", lambda: None)
    with pytest.raises(HubError, match="nobody is logged in"):
        push(shipped, "me/x")
    assert hub.asked == []


def test_offline_says_what_keeps_it(shipped: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        push(shipped, "me/x")


def spoil(folder: Path, how: str) -> None:
    proof = json.loads((folder / "proof.json").read_text())
    if how == "no proof":
        (folder / "proof.json").unlink()
    elif how == "does not hold":
        (folder / "proof.json").write_text(json.dumps(proof | {"holds": False}))
    elif how == "of no weights":
        (folder / "proof.json").write_text(json.dumps(proof | {"files": {}}))
    elif how == "other weights":
        (folder / "adapter_model.safetensors").write_bytes(b"other")
    elif how == "no weights":
        (folder / "adapter_model.safetensors").unlink()
    elif how == "no card":
        (folder / "README.md").unlink()
    elif how == "a broken card":
        (folder / "README.md").write_text("---\n- a list\n---\n")
    elif how == "a link":
        (folder / "link.json").symlink_to("/etc/hostname")
    elif how == "a place":
        (folder / "notes.json").write_text(json.dumps({"from": str(Path.home() / "base")}))
    elif how == "nothing":
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no proof", "there is none"),
        ("does not hold", "does not hold"),
        ("of no weights", "no weights"),
        ("other weights", "has changed since"),
        ("no weights", "is not there"),
        ("no card", "no card"),
        ("a broken card", "as a card"),
        ("a link", "is a link"),
        ("a place", "a place of this machine"),
        ("nothing", "no files"),
    ],
)
def test_what_is_not_proved_or_tells_of_this_machine_is_not_published(
    shipped: Path, hub: Any, how: str, said: str
) -> None:
    spoil(shipped, how)
    with pytest.raises(RecordsError, match=said):
        push(shipped, "me/x")
    assert hub.asked == []


def test_the_users_environment_alone_says_where_and_who(shipped: Path, hub: Any, hubs: ModuleType) -> None:
    """In a process of its own: HF_ENDPOINT, HF_TOKEN."""
    program = (
        f"from pathlib import Path; from lowregret.export.push import push; print(push(Path({str(shipped)!r}), 'me/y'))"
    )
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": hubs.TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | own, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == f"{hub.address}/me/y"
    assert arrived(hub, "me/y") == bytes_of(shipped)
