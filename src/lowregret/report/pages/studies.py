"""The page of studies: the claims first, then each study's figures. One file that needs no network.

It is a pure function of the records, as a compare's page is, and shares its style and scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from lowregret.activity import doing
from lowregret.quantities import duration
from lowregret.questions.claim import Evidence
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import Claim, Claims, corrected, expected_false, holm, judge_study
from lowregret.questions.question import Question
from lowregret.questions.registry import figures
from lowregret.report.charts import words
from lowregret.report.pages.claims import claims_table
from lowregret.report.pages.document import document, figure, joined, section
from lowregret.report.pages.tables import definitions
from lowregret.report.pages.templates import render
from lowregret.runs.atomic import write_bytes
from lowregret.runs.files import REPORT
from lowregret.version import __version__

_NAMED = 6
"""Trials of which a note is said by name."""


@doing("writing the report")
def write_page(folders: Sequence[Path], root: Path) -> Path:
    """Write root/report.html about these studies, atomically, and return its path."""
    path = root / REPORT
    write_bytes(path, page([read_evidence(folder) for folder in folders]).encode())
    return path


def page(studies: Sequence[Evidence[Question]]) -> str:
    """The whole page."""
    judged = [(f"study-{index}", evidence, judge_study(evidence)) for index, evidence in enumerate(studies)]
    rows = [(link, _title(evidence), claim) for link, evidence, found in judged for claim in found.claims]
    count = Counter(claim.ruling for _, _, claim in rows)
    does = "does" if count["does not hold"] == 1 else "do"
    headline = (
        f"{count['holds']} of {len(rows)} claims hold here, {count['does not hold']} {does} not, {count['open']} open"
    )
    together = holm([claim for _, _, claim in rows])
    table = claims_table(rows, together, _many(rows, together), _how(judged))
    body = [_head(headline, studies), section("claims", "Claims", table)]
    for link, evidence, found in judged:
        body.append(render("study", link=link, title=_title(evidence), facts=_facts(evidence, found)))
        for number, drawn in enumerate(figures(evidence)):
            body.append(figure(f"{link}-{number}", drawn.title, drawn.chart.to_dict(), drawn.caption, drawn.key))
    commands = list(dict.fromkeys(evidence.command for evidence in studies))
    body.append(section("reproduce", "Reproduce", render("commands", commands=commands)))
    return document(headline, __version__, joined(body))


def _title(evidence: Evidence[Question]) -> str:
    return evidence.question.TITLE


def _head(headline: str, studies: Sequence[Evidence[Question]]) -> Markup:
    bases = sorted({base for one in studies for base in one.question.bases}) or ["bases of its own"]
    return render("studies", bases=", ".join(bases), headline=headline)


def _many(rows: Sequence[tuple[str, str, Claim]], together: Sequence[float | None]) -> str:
    """How many rulings may be false by chance, and what Holm's correction leaves of them."""
    claims = [claim for _, _, claim in rows]
    left = Counter(corrected(claim, p) for claim, p in zip(claims, together, strict=True))
    false = expected_false(claims)
    return (
        f"{len(claims)} claims are judged at 95 % each, so up to {false:.2g} of these rulings may be "
        f"expected to be false by chance. By Holm's correction for all of them together {left['holds']} hold and "
        f"{left['does not hold']} do not: the probability that any of those is false is 5 % at most."
    )


def _how(judged: Sequence[tuple[str, Evidence[Question], Claims]]) -> str:
    trials: Counter[str] = Counter()
    for _, _, found in judged:
        trials.update(found.trials)
    said = ", ".join(f"{count:,} {status}" for status, count in sorted(trials.items())) or "none"
    seconds = sum(found.seconds for _, _, found in judged)
    loose = [name for _, _, found in judged for name in found.unbracketed]
    unbracketed = f" Best rates that no worse one bounds on both sides: {', '.join(loose)}." if loose else ""
    lost = [f"{name}, {found.kind}" for _, _, found in judged for name in found.diverged]
    ended = [f"{name}, {found.kind}" for _, _, found in judged for name in found.stopped]
    stopped = f" Stopped by request, and so in no mean: {'; '.join(ended)}." if ended else ""
    diverged = f" Diverged at a best rate, and so in no mean: {'; '.join(lost)}." if lost else ""
    return f"Trials: {said}; {duration(seconds)} of training in all.{unbracketed}{diverged}{stopped}"


def _facts(evidence: Evidence[Question], found: Claims) -> Markup:
    question = evidence.question
    parts = question.setting()
    if evidence.conditions:
        taken = sum(trial.record.taken_from is not None for one in evidence.conditions.values() for trial in one.trials)
        others = f"; {taken} were taken over from other runs, whose time is not counted" if taken else ""
        parts |= {"Trials": f"{sum(found.trials.values())}, {duration(found.seconds)} of training{others}"}
    if found.noise_nats is not None:
        unit = "of reward" if evidence.question.objective.kind == "rl" else "nats"
        parts["Noise floor"] = f"{words.nats(found.noise_nats)} {unit}: standard deviation between seeds at a best rate"
    if noted := _noted(evidence):
        parts["Noted of trials"] = noted
    return definitions(parts)


def _noted(evidence: Evidence[Question]) -> str:
    """What the trials' records say of results that need a word, each once with the trials that it is said of."""
    trials: dict[str, list[str]] = {}
    for condition in evidence.conditions.values():
        for trial in condition.trials:
            if trial.record.note:
                trials.setdefault(trial.record.note, []).append(trial.record.id)
    shown = ((note, sorted(names)) for note, names in sorted(trials.items()))
    return " ".join(f"{', '.join(names[:_NAMED])}{_more(len(names) - _NAMED)}: {note}." for note, names in shown)


def _more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""
