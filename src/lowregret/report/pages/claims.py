"""The claims of studies as text, and as the table that opens the page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lowregret.questions.judge import Claim, corrected
from lowregret.report.charts.words import MINUS
from lowregret.report.pages.templates import NONE, render

MARKS = {"holds": "✓", "does not hold": "✗", "open": "?"}


def _corrected(claim: Claim, p: float | None) -> str:
    """What is left of a ruling when it is one of many."""
    if p is None:
        return "no p-value"
    return f"Holm: {corrected(claim, p)}, p {p:.2g}"


def value_text(claim: Claim) -> str:
    """The statistic with its unit."""
    return NONE if claim.estimate is None else amount(claim.estimate.value, claim.statement.unit)


def interval_text(claim: Claim) -> str:
    """The interval with its unit; a dash when there is none."""
    found = claim.estimate
    if found is None or (found.low is None and found.high is None):
        return NONE
    unit = claim.statement.unit
    if found.low is None:
        return f"at most {amount(found.high or 0.0, unit)}"
    if found.high is None:
        return f"at least {amount(found.low, unit)}"
    if found.low == found.high:
        return "exact"
    return f"{amount(found.low, unit)} to {amount(found.high, unit)}"


def amount(value: float, unit: str) -> str:
    """A number in a claim's unit: `9.8×`, `0.52 %`, `0.0031 nats`."""
    if unit == "share":
        said = f"{100 * value:.3g} %"
    else:
        said = f"{value:.3g}" + {"ratio": "×", "nats": " nats", "bits": " bits"}.get(unit, "")
    return said.replace("-", MINUS)


def claims_table(
    rows: Sequence[tuple[str, str, Claim]], together: Sequence[float | None], many: str, how: str
) -> Markup:
    """One line a claim; a row is (link to its study, name of its study, the claim). On a phone a line is a card.

    `together` has each one's p-value, corrected for the number of all of them (`judge.holm`). `many` stands above and
    `how` below.
    """
    lines = [
        {
            "kind": claim.ruling.replace(" ", "-"),
            "link": link,
            "study": study,
            "sentence": claim.statement.sentence,
            "number": claim.statement.number,
            "statistic": claim.statement.statistic,
            "ruling": f"{MARKS[claim.ruling]} {claim.ruling}",
            "corrected": _corrected(claim, p),
            "note": claim.note,
            "value": value_text(claim),
            "interval": interval_text(claim),
            "threshold": claim.statement.threshold.replace("-", MINUS),
        }
        for (link, study, claim), p in zip(rows, together, strict=True)
    ]
    return render("claims", rows=lines, many=many, how=how)
