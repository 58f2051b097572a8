"""What the base and what was trained on it say to the same held-out prompts, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lowregret.report.charts import words
from lowregret.report.pages.document import section
from lowregret.report.pages.templates import render
from lowregret.runs.files import REPLIES
from lowregret.runs.replies import Answered, Replies, Speaker, read_replies

SHOWN = 2000
"""Characters of a text on the page; the file has all."""
_SUMMARY = 80
_BASE = "Base"


def replies(folder: Path, label: Callable[[str], str]) -> Markup:
    """The section of a run; empty where it has no replies. `label` says a method as the page does elsewhere.

    Raises RecordsError when the file is damaged.
    """
    found = read_replies(folder)
    if found is None or not found.rows:
        return Markup("")
    names: dict[str, str] = {one.name: _named(one, label) for one in found.speakers}
    rows = [_row(row, names, title) for row, title in zip(found.rows, _titles(found.rows), strict=True)]
    return section("replies", "What they say", render("replies", note=_note(found), rows=rows))


def _named(one: Speaker, label: Callable[[str], str]) -> str:
    return _BASE if one.method is None else label(one.method)


def _note(found: Replies) -> str:
    judged = any(reply.nll is not None for row in found.rows for reply in row.replies.values())
    loss = " Loss: that of the example, in nats per supervised token, and as perplexity." if judged else ""
    return (
        f"Greedy replies of at most {found.max_tokens:,} tokens to {found.choice}: they were not picked by what "
        f"is said.{loss} Open one to read it; {REPLIES} has all."
    )


def _row(row: Answered, names: Mapping[str, str], title: str) -> dict[str, Any]:
    return {
        "title": title,
        "alike": _alike(row, names),
        "prompt": _shortened(row.prompt),
        "reference": None if row.reference is None else _shortened(row.reference),
        "sides": [_side(row, name, names) for name in names if name in row.replies],
    }


def _alike(row: Answered, names: Mapping[str, str]) -> str:
    """Which replies are the same, in short."""
    texts = {names[name]: reply.text for name, reply in row.replies.items()}
    if len(set(texts.values())) == 1:
        return "all say the same"
    if row.reference is not None and row.reference in texts.values():
        right = [_mid(name) for name, said in texts.items() if said == row.reference]
        return f"as in the data: {', '.join(right)}"
    return ""


def _side(row: Answered, name: str, names: Mapping[str, str]) -> dict[str, str]:
    reply = row.replies[name]
    before = list(row.replies)[: list(row.replies).index(name)]
    same = next((names[other] for other in before if row.replies[other].text == reply.text), None)
    marks = []
    if reply.nll is not None:
        marks.append(f"loss {words.nats(reply.nll)} (perplexity {words.perplexity(reply.nll)})")
    if reply.reward is not None:
        marks.append(f"reward {reply.reward:.3g}")
    if reply.text == row.reference:
        marks.append("as in the data")
    if same is not None:
        marks.append(f"the same as {_mid(same)}")
    if reply.cut:
        marks.append(f"cut after {reply.tokens:,} tokens")
    told = f": {', '.join(marks)}" if marks else ""
    return {"name": names[name], "marks": told, "text": _shortened(reply.text)}


def _mid(name: str) -> str:
    return "the base" if name == _BASE else words.mid_sentence(name)


def _shortened(said: str) -> str:
    if len(said) <= SHOWN:
        return said
    half = SHOWN // 2
    return f"{said[:half]}\n[… {len(said) - 2 * half:,} characters …]\n{said[-half:]}"


def _titles(rows: Sequence[Answered]) -> list[str]:
    """What tells the prompts apart, each in a line: without the lines, and marks in <>, that all begin or end with."""
    prompts = [row.prompt for row in rows]
    start = _shared(prompts)
    start = start[: max(start.rfind(mark) for mark in ">\n") + 1]
    rest = [prompt[len(start) :] for prompt in prompts]
    end = _shared([prompt[::-1] for prompt in rest])[::-1]
    end = end[min((place for mark in "<\n" if (place := end.find(mark)) >= 0), default=len(end)) :]
    told = [_line(prompt.removesuffix(end)) for prompt in rest]
    return [own or _line(whole) for own, whole in zip(told, prompts, strict=True)]


def _shared(texts: Sequence[str]) -> str:
    """What all of several texts begin with."""
    if len(texts) < 2:
        return ""
    return "".join(first for first, *_ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


def _line(said: str) -> str:
    line = " ".join(said.split())
    return line if len(line) <= _SUMMARY else line[: _SUMMARY - 1] + "…"
