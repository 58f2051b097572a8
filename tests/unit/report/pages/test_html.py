"""The page says the verdict, needs no network, and cannot be broken by what the records hold."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.report.charts.theme import COLOURS
from lowregret.report.pages.html import write_report
from lowregret.spec import FullFT, LoRA

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quotes\" 'too'"


class Page(HTMLParser):
    """Tags with their attributes, scripts, and the text a reader sees."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text += data.replace("\xa0", " ")


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def test_verdict_and_numbers_are_in_words(parsed: Page) -> None:
    assert "Choose LoRA (rank 16): it matches full fine-tuning within the tolerance." in parsed.text
    for said in (
        "+0.0021 nats",
        "+0.34 % of what is learned",
        "−0.0012 to +0.0054",
        "0.0065 nats",
        "1.3041",
        "1.3020",
        "attention, mlp",
    ):
        assert said in parsed.text
    assert "lora:1 is 0.047 nats worse" in parsed.text
    assert parsed.text.index("Choose LoRA") < parsed.text.index("Why") < parsed.text.index("Loss against steps")


def test_page_loads_nothing(parsed: Page) -> None:
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not any(tag in ("link", "iframe", "object", "base") for tag, _ in parsed.tags)
    assert not any("@import" in style or "url(" in style for style in parsed.styles)
    assert not any(word in parsed.scripts[0] for word in ("import(", "fetch(", "eval(", "Function("))


def test_policy_admits_exactly_the_script_and_the_style_of_the_page(parsed: Page) -> None:
    policy = next(a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert len(parsed.scripts) == len(parsed.styles) == 1
    for kind, sources in (("script", parsed.scripts), ("style", parsed.styles)):
        hashes = {base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources}
        assert set(re.findall(rf"{kind}-src 'sha256-([^']+)';", policy)) == hashes
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not any("style" in attributes for _, attributes in parsed.tags), "the policy admits no style of an element"
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) < 250_000
    assert "vega" not in page.lower()


def test_every_figure_has_a_caption_and_two_drawings_that_say_what_is_found(parsed: Page) -> None:
    drawings = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    keys = {"regret", "lag", "rates", "steps", "cost"}
    assert {a["id"] for tag, a in parsed.tags if tag == "figure"} == {f"figure-{key}" for key in keys}
    assert sum(tag == "figcaption" for tag, _ in parsed.tags) == len(keys)
    assert [drawing["class"] for drawing in drawings] == ["wide", "narrow"] * len(keys)
    assert all(drawing["aria-hidden"] == "true" for drawing in drawings)
    plots = [attributes for _, attributes in parsed.tags if attributes.get("class") == "plot"]
    assert [plot["role"] for plot in plots] == ["img"] * len(keys)
    said = " ".join(str(plot["aria-label"]) for plot in plots)
    for found in (
        "LoRA (rank 16): +0.0021 (−0.0012 to +0.0054), within the tolerance of 0.0065",
        "LoRA (rank 1): +0.0470 (+0.0402 to +0.0531), beyond the tolerance of 0.0065",
        "LoRA (rank 16): best at 1e-3 with 1.3041",
        "Full fine-tuning goes from 1.9213 to 1.3020 held out",
        "Peak memory: LoRA (rank 16) 412 MB, LoRA (rank 1) 402 MB, Full fine-tuning 631 MB",
    ):
        assert found in said


def test_a_page_has_no_colour_of_its_own_outside_its_style(page: str) -> None:
    """So that light, dark and print share one drawing."""
    body = page.partition("</style>")[2]
    assert not re.findall(r'(?:fill|stroke)="(?!none|var\(--|transparent)[^"]*"', body)
    used = set(re.findall(r"var\(--([\w-]+)\)", page)) - {"accent"}
    assert used <= set(COLOURS)
    assert used >= {"method-0", "method-1", "method-2", "ink", "muted"}


def test_no_two_elements_have_one_name(parsed: Page) -> None:
    ids = [str(attributes["id"]) for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_perplexity_stands_beside_nats(parsed: Page) -> None:
    assert "1.3041 nats" in parsed.text
    assert "perplexity 3.684" in parsed.text
    assert "perplexity × 1.002" in parsed.text, "the regret as a factor"


def test_every_trial_is_a_row_of_a_table_that_the_keyboard_sorts(page: str, parsed: Page, studies: ModuleType) -> None:
    table = page[page.index('<table class="sortable">') :]
    rows = table[: table.index("</table>")].split("<tr")[2:]
    assert len(rows) == len(studies.ordinary_trials())
    assert sum('class="status-diverged"' in row for row in rows) == 3
    heads = re.findall(r'<th scope="col"[^>]* aria-sort="none"><button type="button">([^<]+)</button>', page)
    assert len(heads) == 12
    missing = [row for row in rows if 'data-key=""><span>–' in row]
    assert len(missing) == 4, "a trial without a loss sorts last, by an empty key"
    assert "loss is nan at step 17" in parsed.text


def test_command_spec_rules_and_environment_are_there(parsed: Page, studies: ModuleType) -> None:
    assert studies.COMMAND in parsed.text
    assert '"batch_size": 8' in parsed.text
    assert all(rule in parsed.text for rule in studies.RULES)
    assert "lies under 5 % of what full fine-tuning learns" in parsed.text
    assert "cpu.cores" in parsed.text


def test_hostile_text_stays_text(tmp_path: Path, studies: ModuleType) -> None:
    method = LoRA(rank=8, targets=("re:" + re.escape("<b>") + "|x",))
    bad = studies.trial(method, 1e-3, status="failed", test_nll=None, error=HOSTILE, id="bad")
    bad = bad.model_copy(update={"method": HOSTILE})
    studies.write_study(
        tmp_path,
        asked=studies.spec(model=HOSTILE, methods=(method, FullFT())),
        trials=[bad, studies.trial(FullFT(), 3e-4)],
        found=studies.verdict(
            reasons=(HOSTILE,),
            methods=(studies.result("full"), studies.result("lora:16").model_copy(update={"name": HOSTILE})),
            environment={HOSTILE: {HOSTILE: HOSTILE}},
            search={HOSTILE: [HOSTILE], "rules": [HOSTILE]},
        ),
        command=HOSTILE,
    )
    found = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert found.text.count(HOSTILE) >= 6
    assert len(found.scripts) == 1, "the page's own"
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert sum(tag == "b" for tag, _ in found.tags) == 0


def odd_studies(studies: ModuleType) -> dict[str, dict[str, Any]]:
    """Studies that ended in unusual ways, and the words their pages must hold."""
    pair = studies.spec(methods=(LoRA(rank=16), FullFT()))
    nothing = {"best_learning_rate": None, "bracketed": False, "test_nll": None, "seeds": 0, "tokens": 0}
    nothing |= {"seconds": 0, "peak_memory_bytes": 0, "trainable_parameters": 0, "checkpoint_bytes": 0}
    loose = studies.result("lora:16", 0.012, bracketed=False, seeds=1)
    open_ended = {"verdict": "inconclusive", "recommendation": None, "ci95": None}
    unmeasured = {**open_ended, "regret_nats": None, "regret_percent": None, "tolerance_nats": None}
    empty = studies.verdict(
        **unmeasured,
        lora=None,
        full=None,
        base_nll=None,
        methods=(studies.result("lora:16", **nothing), studies.result("full", **nothing)),
    )
    return {
        "nothing finished": {
            "asked": pair,
            "trials": [studies.unfinished(LoRA(rank=16), 1e-3, "diverged")],
            "found": empty,
            "says": "Not settled: no regret could be measured.",
        },
        "no trial at all": {"asked": pair, "trials": [], "found": empty, "says": "Every trial (0)"},
        "no regret though trained": {
            "found": studies.verdict(**unmeasured, methods=(studies.result("lora:16"), studies.result("full"))),
            "says": "No regret could be measured; the reasons above say why.",
        },
        "one method unbracketed, one seed, a list of rates": {
            "asked": pair.model_copy(update={"seeds": 1, "learning_rates": (3e-4, 1e-3), "prune": None}),
            "trials": [studies.trial(m, r) for m, r in ((LoRA(rank=16), 1e-3), (FullFT(), 3e-4))],
            "found": studies.verdict(
                verdict="inconclusive", ci95=None, lora=loose, methods=(loose, studies.result("full", seeds=1))
            ),
            "says": "Provisional: the study did not settle the question.",
        },
    }


@pytest.mark.parametrize(
    "name",
    [
        "nothing finished",
        "no trial at all",
        "no regret though trained",
        "one method unbracketed, one seed, a list of rates",
    ],
)
def test_unusual_studies_have_pages_too(name: str, tmp_path: Path, studies: ModuleType) -> None:
    case = odd_studies(studies)[name]
    says = case.pop("says")
    found = Page(write_report(studies.write_study(tmp_path, **case)).read_text(encoding="utf-8"))
    assert says in found.text
    assert ("not bracketed: no other rate did worse" in found.text) == ("unbracketed" in name)
    assert "None" not in found.text
    assert "NaN" not in found.text


def test_the_page_is_a_function_of_the_records(folder: Path, page: str) -> None:
    assert write_report(folder).read_text(encoding="utf-8") == page
    assert not list(folder.glob("*.partial"))


def test_a_folder_without_records_is_refused_without_a_page(tmp_path: Path) -> None:
    with pytest.raises(RecordsError):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_importing_the_report_imports_neither_altair_nor_torch() -> None:
    pages = "lowregret.report.pages.html, lowregret.report.pages.studies, lowregret.report.verification"
    code = f"import sys, {pages}; print(sorted({{'altair', 'torch', 'vl_convert'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
