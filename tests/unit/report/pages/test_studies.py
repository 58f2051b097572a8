"""The page of studies: claims first, then figures, nothing from the network, nothing a record could break."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.questions.evidence import read_evidence
from lowregret.questions.registry import QUESTIONS
from lowregret.report.finding import find_studies
from lowregret.report.pages import studies as pages
from lowregret.report.pages.studies import page, write_page


@pytest.fixture(scope="module")
def layers_page(every_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page([every_study / "layers"], tmp_path_factory.mktemp("page"))


def test_the_claims_come_first_and_the_studies_in_the_order_of_the_post(
    every_study: Path, drawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(evidence: Any) -> list[Any]:
        """What was drawn already; the pages of the other tests draw for themselves."""
        made = drawn(evidence.question.kind)
        return [replace(one, chart=SimpleNamespace(to_dict=spec.copy)) for one, spec in made]

    monkeypatch.setattr(pages, "figures", again)
    blank = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1" viewBox="0 0 1 1"/>'
    monkeypatch.setattr("lowregret.report.charts.inline.svg", lambda *_: blank)
    source = page([read_evidence(folder) for folder in find_studies([every_study], lambda line: None)])
    places = [source.index(f">{question.TITLE}</h2>") for question in QUESTIONS.values()]
    assert source.index('id="claims-title"') < min(places)
    assert places == sorted(places)
    claims = sum(len(json.loads((every_study / kind / "claims.json").read_text())["claims"]) for kind in QUESTIONS)
    assert source.count('<tr class="ruling-') == claims


def test_the_page_says_how_many_claims_are_judged_and_how_many_rulings_may_be_false(every_study: Path) -> None:
    """Holm's correction is for all claims of the page: of one study's it is weaker than of two studies'."""
    homes = [every_study / kind for kind in ("learning-rate", "layers")]
    stored = [json.loads((home / "claims.json").read_text())["claims"] for home in homes]
    ps = sorted(claim["p"] for claims in stored for claim in claims if claim["p"] is not None)
    source = page([read_evidence(home) for home in homes]).replace("\N{NO-BREAK SPACE}", " ")
    assert f"{sum(map(len, stored))} claims are judged at 95 % each, so up to {0.05 * len(ps):.2g} of these" in source
    assert source.count("Holm: ") == len(ps)
    assert f"p {min(1.0, ps[0] * len(ps)):.2g}<" in source, "the least one is multiplied by the number of all"


def test_the_page_needs_no_network_and_has_one_policy(every_study: Path) -> None:
    source = page([read_evidence(every_study / "early")])
    assert "default-src 'none'" in unescape(source)
    assert not re.search(r'(src|href)="https?:', source)


def test_the_page_is_a_function_of_the_records(every_study: Path, layers_page: Path) -> None:
    first = layers_page.read_bytes()
    assert write_page([every_study / "layers"], layers_page.parent).read_bytes() == first


def test_hostile_text_stays_text(every_study: Path) -> None:
    path = every_study / "early" / "study.json"
    before = path.read_text()
    value = json.loads(before)
    value["command"] = value["question"]["model"] = "</pre><script>alert(1)</script>"
    try:
        path.write_text(json.dumps(value))
        assert "<script>alert(1)" not in page([read_evidence(every_study / "early")])
    finally:
        path.write_text(before)


def test_a_seed_that_diverged_at_a_best_rate_is_on_the_page(
    every_study: Path, layers_page: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(every_study / "layers", tmp_path / "layers")
    assert "Diverged at a best rate" not in layers_page.read_text(encoding="utf-8")
    run = read_evidence(folder).conditions["main"].at_best("full")[-1]
    record = json.loads((run.home / "trial.json").read_text())
    (run.home / "trial.json").write_text(json.dumps(record | {"status": "diverged", "test_nll": None}))
    said = page([read_evidence(folder)]).partition("Diverged at a best rate, and so in no mean: ")[2]
    assert said.startswith(f"seed {run.record.seed} of full (main), layers.")


def test_what_a_record_notes_of_its_trial_is_on_the_page(every_study: Path, layers_page: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(every_study / "layers", tmp_path / "layers")
    assert "Noted of trials" not in layers_page.read_text(encoding="utf-8")
    runs = sorted(read_evidence(folder).conditions["main"].at_best("full"), key=lambda run: run.record.id)
    for run in runs:
        record = json.loads((run.home / "trial.json").read_text())
        (run.home / "trial.json").write_text(json.dumps(record | {"note": "the weights did not <move>"}))
    said = page([read_evidence(folder)]).partition("Noted of trials")[2]
    names = ", ".join(run.record.id for run in runs)
    assert f"{names}: the weights did not &lt;move&gt;." in said
