"""What the base and what was trained on it say to the same held-out prompts, side by side, as escaped HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import takewhile
from pathlib import Path

from lowregret.report.charts import words
from lowregret.report.pages.document import section
from lowregret.report.pages.tables import text
from lowregret.runs.files import REPLIES
from lowregret.runs.replies import Answered, Replies, Speaker, read_replies

SHOWN = 2000
"""Characters of a text on the page; the file has all."""
_SUMMARY = 80
_BASE = "Base"


def replies(folder: Path, label: Callable[[str], str]) -> str:
    """The section of a run; "" where it has no replies. `label` says a method as the page does elsewhere.

    Raises RecordsError when the file is damaged.
    """
    found = read_replies(folder)
    if found is None or not found.rows:
        return ""
    names: dict[str, str] = {one.name: _named(one, label) for one in found.speakers}
    shown = "".join(
        _row(row, names, title, first=place == 0)
        for place, (row, title) in enumerate(zip(found.rows, _titles(found.rows), strict=True))
    )
    return section("replies", "What they say", f'<p class="note">{_note(found)}</p>\n<div class="said">{shown}</div>')


def _named(one: Speaker, label: Callable[[str], str]) -> str:
    return _BASE if one.method is None else label(one.method)


def _note(found: Replies) -> str:
    judged = any(reply.nll is not None for row in found.rows for reply in row.replies.values())
    loss = " Loss: that of the example, in nats per supervised token." if judged else ""
    return (
        f"Greedy replies of at most {found.max_tokens:,} tokens to {text(found.choice)}: they were not picked by what "
        f"is said.{loss} Open one to read it; {REPLIES} has all."
    )


def _row(row: Answered, names: Mapping[str, str], title: str, *, first: bool) -> str:
    sides = "".join(_side(row, name, names) for name in names if name in row.replies)
    reference = "" if row.reference is None else f'<p class="when">In the data</p>\n{_text(row.reference)}'
    return (
        f'<details class="sample"{" open" if first else ""}><summary><bdi>{escape(title)}</bdi> '
        f'<span class="moved">{escape(_alike(row, names))}</span></summary>\n'
        f'<pre class="prompt" dir="auto">{escape(_shortened(row.prompt))}</pre>\n{reference}'
        f'<div class="sides">{sides}</div></details>\n'
    )


def _alike(row: Answered, names: Mapping[str, str]) -> str:
    """Which replies are the same, in short."""
    texts = {names[name]: reply.text for name, reply in row.replies.items()}
    if len(set(texts.values())) == 1:
        return "all say the same"
    if row.reference is not None and row.reference in texts.values():
        right = [_mid(name) for name, said in texts.items() if said == row.reference]
        return f"as in the data: {', '.join(right)}"
    return ""


def _side(row: Answered, name: str, names: Mapping[str, str]) -> str:
    reply = row.replies[name]
    before = list(row.replies)[: list(row.replies).index(name)]
    same = next((names[other] for other in before if row.replies[other].text == reply.text), None)
    marks = []
    if reply.nll is not None:
        marks.append(f"loss {words.nats(reply.nll)}")
    if reply.reward is not None:
        marks.append(f"reward {reply.reward:.3g}")
    if reply.text == row.reference:
        marks.append("as in the data")
    if same is not None:
        marks.append(f"the same as {_mid(same)}")
    if reply.cut:
        marks.append(f"cut after {reply.tokens:,} tokens")
    told = f": {', '.join(marks)}" if marks else ""
    return f'<div><p class="when"><strong>{text(names[name])}</strong>{text(told)}</p>\n{_text(reply.text)}</div>\n'


def _mid(name: str) -> str:
    return "the base" if name == _BASE else words.mid_sentence(name)


def _text(said: str) -> str:
    """A text of a model or of the data; scrolled by keys where it is long."""
    return f'<pre tabindex="0" dir="auto">{escape(_shortened(said)) or "<em>nothing</em>"}</pre>'


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
