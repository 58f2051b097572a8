"""What they say, on a page: escaped, marked where it is equal or cut, and nothing where there is nothing."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.report.pages.html import write_report
from lowregret.report.pages.replies import SHOWN, replies
from lowregret.runs.atomic import write_json
from lowregret.runs.replies import Answered, Replies, Reply, Speaker

HOSTILE = "</pre><script>alert(1)</script>"
ORDERS = "\x1b[2J\u202eevil"
BASE = Speaker(name="base")
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def reply(said: str, **changed: Any) -> Reply:
    return Reply(**{"text": said, "tokens": 3, "cut": False, **changed})


def write(folder: Path, *rows: Answered) -> Path:
    write_json(
        folder / "replies.json",
        Replies(asked=8, held_out="0" * 16, choice=f"the first {HOSTILE}", max_tokens=128, speakers=(BASE,), rows=rows),
    )
    return folder


def row(prompt: str, *said: Reply, reference: str | None = None) -> Answered:
    return Answered(
        place=0, prompt=prompt, reference=reference, replies=dict(zip(("base", "lora", "full"), said, strict=False))
    )


def shown(folder: Path) -> str:
    return replies(folder, str)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winners whose replies are those of the file."""
    monkeypatch.setattr("lowregret.report.pages.replies.read_replies", lambda folder: _read(folder))


def _read(folder: Path) -> Replies:
    found = Replies.model_validate_json((folder / "replies.json").read_text())
    lora, full = Speaker(name="lora", method="lora:16"), Speaker(name="full", method="Full fine-tuning")
    return found.model_copy(update={"speakers": (BASE, lora, full)})


def test_no_replies_no_section(tmp_path: Path, studies: ModuleType) -> None:
    assert shown(tmp_path) == ""
    page = write_report(studies.write_study(tmp_path / "study")).read_text(encoding="utf-8")
    assert "What they say" not in page


def test_a_study_with_replies_has_the_section_on_its_page(tmp_path: Path, studies: ModuleType) -> None:
    folder = studies.write_study(tmp_path / "study")
    write(folder, row("2 + 2?", reply("4")))
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count('id="replies-title"') == 1


def test_what_is_hostile_is_text(tmp_path: Path, studies: ModuleType) -> None:
    folder = studies.write_study(tmp_path / "study")
    write(folder, row(f"{HOSTILE}{ORDERS}", reply(HOSTILE + ORDERS), reference=HOSTILE))
    page = write_report(folder).read_text(encoding="utf-8")
    part = page[page.index('id="replies-title"') :]
    assert "<script>alert" not in page
    assert part.count("&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\\x1b[2J\\u202eevil" in part


@pytest.mark.usefixtures("pair")
def test_equal_and_cut_replies_are_marked(tmp_path: Path) -> None:
    write(
        tmp_path,
        row("a", reply("4", nll=0.5), reply("5", cut=True), reply("4", reward=1.0), reference="5"),
        row("b", reply("4"), reply("4"), reply("4")),
    )
    sides = [unescape(re.sub("<[^>]+>", "", side)) for side in re.findall('<p class="when">(.*?)</p>', shown(tmp_path))]
    assert sides[:4] == [
        "In the data",
        "Base: loss 0.5000 (perplexity 1.649)",
        "lora:16: as in the data, cut after 3 tokens",
        "Full fine-tuning: reward 1, the same as the base",
    ]
    summaries = re.findall('<span class="moved">(.*?)</span>', shown(tmp_path))
    assert summaries == ["as in the data: lora:16", "all say the same"]


def test_titles_are_what_tells_prompts_apart(tmp_path: Path) -> None:
    write(tmp_path, *(row(CHAT.format(f"What is {n} + 1?"), reply(str(n))) for n in (1, 20)))
    assert re.findall("<bdi>(.*?)</bdi>", shown(tmp_path)) == ["What is 1 + 1?", "What is 20 + 1?"]
    write(tmp_path, row(CHAT.format("Why?"), reply("a")), row("Why?", reply("b")), row("", reply("")))
    assert [unescape(title) for title in re.findall("<bdi>(.*?)</bdi>", shown(tmp_path))] == [
        "<|im_start|>user Why?<|im_end|> <|im_start|>assistant", "Why?", "",
    ]  # fmt: skip


def test_long_texts_are_shortened_on_the_page(tmp_path: Path) -> None:
    write(tmp_path, row("p" * 5 * SHOWN, reply("r" * 5 * SHOWN), reference="d" * 5 * SHOWN))
    page = shown(tmp_path)
    assert len(page) < 5 * SHOWN
    assert page.count(f"[… {4 * SHOWN:,} characters …]") == 3


def test_an_empty_reply_is_told(tmp_path: Path) -> None:
    write(tmp_path, row("p", reply("")))
    assert "<em>nothing</em>" in shown(tmp_path)
