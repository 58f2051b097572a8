"""The page of studies: the claims first, then each study's figures. One file that needs no network.

It is a pure function of the records, as a compare's page is, and shares its style and scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from lowregret import __version__
from lowregret.analysis.claims import Claims, judge_study
from lowregret.analysis.evidence import Evidence, read_evidence
from lowregret.errors import RecordsError
from lowregret.report import words
from lowregret.report.claims import claims_table
from lowregret.report.html import document, figure, section
from lowregret.report.tables import definitions, text
from lowregret.runs.atomic import read_json, write_bytes
from lowregret.spec.questions import BatchSizeQuestion

PAGE = "report.html"
_STUDY, _CLAIMS = "study.json", "claims.json"
TITLES = {
    "rank": "How much rank is enough?",
    "learning-rate": "Which learning rate?",
    "short-runs": "The learning rate of short runs",
    "early": "The first steps",
    "batch-size": "How large may the batch be?",
    "layers": "Which matrices?",
    "capacity": "How many bits does an adapter hold?",
    "compute": "What does it cost?",
    "invariance": "Which settings are the same?",
    "variants": "Are the variants better?",
    "scaling": "What changes with the size of the base?",
    "moe": "Where in a mixture of experts?",
    "rl": "Does rank 1 suffice where rewards teach?",
}


def find_studies(folders: Sequence[Path], say: Callable[[str], None], *, compares: bool = False) -> list[Path]:
    """The finished studies among these folders and right below them.

    With `compares`, folders of `lowregret compare` are found too. A study that is not finished is left out, and `say`
    told so and what finishes it. RecordsError for a folder without any study, and when none is finished.
    """
    heads = [_STUDY, *(["verdict.json"] if compares else [])]
    found: list[Path] = []
    for folder in folders:
        below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        own = [path for path in (folder, *below) if any((path / head).is_file() for head in heads)]
        if not own:
            raise RecordsError(f"{folder}: is no study. Name a folder that `lowregret study` or `compare` has left.")
        found += [path for path in own if path not in found]
    unfinished = [path for path in found if (path / _STUDY).is_file() and not (path / _CLAIMS).is_file()]
    if len(unfinished) == len(found):
        raise RecordsError("\n".join(f"{path}: is not finished. {_how_to_finish(path)}" for path in unfinished))
    for path in unfinished:
        say(f"{path}: left out, because it is not finished. {_how_to_finish(path)}")
    return sorted((path for path in found if path not in unfinished), key=_order)


def _how_to_finish(folder: Path) -> str:
    head = read_json(folder / _STUDY)
    command = head.get("command") if isinstance(head, dict) else None
    return f"Run the same command again: {command}" if command else "Run the same `lowregret study` again."


def _order(folder: Path) -> tuple[int, str]:
    kinds = list(TITLES)
    return (kinds.index(folder.name) if folder.name in kinds else len(kinds), str(folder))


def write_page(folders: Sequence[Path], root: Path) -> Path:
    """Write root/report.html about these studies, atomically, and return its path."""
    path = root / PAGE
    write_bytes(path, page([read_evidence(folder) for folder in folders]).encode())
    return path


def page(studies: Sequence[Evidence]) -> str:
    """The whole page."""
    from lowregret.report.study_figures import figures  # altair takes half a second to import

    judged = [(f"study-{index}", evidence, judge_study(evidence)) for index, evidence in enumerate(studies)]
    rows = [(link, _title(evidence), claim) for link, evidence, found in judged for claim in found.claims]
    count = Counter(claim.ruling for _, _, claim in rows)
    does = "does" if count["does not hold"] == 1 else "do"
    headline = (
        f"{count['holds']} of {len(rows)} claims hold here, {count['does not hold']} {does} not, {count['open']} open"
    )
    body = [
        _head(headline, studies),
        section("claims", "Claims", claims_table(rows) + _how(judged)),
    ]
    specs = {}
    for link, evidence, found in judged:
        body.append(f'<h2 class="study" id="{link}">{text(_title(evidence))}</h2>\n{_facts(evidence, found)}')
        for number, drawn in enumerate(figures(evidence)):
            key = f"{link}-{number}"
            specs[key] = drawn.chart.to_dict()
            body.append(figure(key, drawn.title, specs[key], drawn.caption))
    body.append(section("reproduce", "Reproduce", _reproduce(studies)))
    return document(headline, __version__, "".join(body), specs)


def _title(evidence: Evidence) -> str:
    return TITLES[evidence.kind]


def _head(headline: str, studies: Sequence[Evidence]) -> str:
    bases = sorted({e.question.model for e in studies if e.kind not in ("compute", "scaling")}) or ["bases of its own"]
    return (
        '<header class="verdict">\n<p class="topline"><span class="badge">studies</span> '
        f"LoRA against full fine-tuning on {escape(', '.join(bases))}</p>\n<h1>{text(headline)}</h1>\n"
        "<p>Each claim is a sentence of <em>LoRA Without Regret</em> (Schulman et al., 2025) or of work that followed "
        "it, with the statistic and the bounds that were set before the run. It holds when the whole 95 % interval "
        "lies within the bounds, does not when it lies wholly outside, and is open otherwise.</p>\n</header>\n"
    )


def _how(judged: Sequence[tuple[str, Evidence, Claims]]) -> str:
    trials: Counter[str] = Counter()
    for _, _, found in judged:
        trials.update(found.trials)
    said = ", ".join(f"{count:,} {status}" for status, count in sorted(trials.items())) or "none"
    seconds = sum(found.seconds for _, _, found in judged)
    loose = [name for _, _, found in judged for name in found.unbracketed]
    unbracketed = f" Best rates that no worse one bounds on both sides: {', '.join(loose)}." if loose else ""
    lost = [f"{name}, {found.kind}" for _, _, found in judged for name in found.diverged]
    diverged = f" Diverged at a best rate, and so in no mean: {'; '.join(lost)}." if lost else ""
    return (
        f'<p class="note">Trials: {said}; {words.seconds(seconds)} of training in all.{text(unbracketed + diverged)} '
        "<code>lowregret verify</code> computes this table again from the raw records.</p>"
    )


def _facts(evidence: Evidence, found: Claims) -> str:
    question = evidence.question
    parts = {"Base": question.model, "Data": question.data.train}
    if evidence.kind != "compute":
        if isinstance(question, BatchSizeQuestion):
            parts |= {"Each run": f"{question.examples:,} examples, {question.seeds} seeds"}
        else:
            run = f"{question.steps} steps, batch {question.batch_size}, {question.seeds} seeds"
            parts |= {"Each run": run}
        parts |= {"Trials": f"{sum(found.trials.values())}, {words.seconds(found.seconds)} of training"}
    else:
        parts = {"Base": "made for this, random weights, one per width"}
    if found.noise_nats is not None:
        unit = "of reward" if evidence.question.objective.kind == "rl" else "nats"
        parts["Noise floor"] = f"{words.nats(found.noise_nats)} {unit}: standard deviation between seeds at a best rate"
    return definitions(parts, "")


def _reproduce(studies: Sequence[Evidence]) -> str:
    commands = dict.fromkeys(evidence.command for evidence in studies)
    return "".join(f'<pre class="command" tabindex="0"><code>{escape(command)}</code></pre>\n' for command in commands)
