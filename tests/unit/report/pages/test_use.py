"""The section that says what to type next."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from types import ModuleType

import pytest

from lowregret.errors import RecordsError
from lowregret.report.pages.html import write_report
from lowregret.report.pages.use import use
from lowregret.runs.commands import commands
from lowregret.runs.files import BEST, BEST_LORA, TRIAL
from lowregret.runs.forms import look
from lowregret.runs.study import read_trials


@pytest.fixture
def run(studies: ModuleType, tmp_path: Path) -> Path:
    """A compare that has kept its best LoRA, in a folder whose name is HTML."""
    found: Path = studies.write_study(tmp_path / '<b>it\'s & "x"')
    folder = found / BEST / BEST_LORA
    folder.mkdir(parents=True)
    trial = next(trial for trial in read_trials(found) if trial.method.startswith("lora"))
    (folder / TRIAL).write_text(trial.model_copy(update={"stop_texts": ("\n</pre>",)}).model_dump_json())
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16}))
    return found


def test_the_page_has_the_commands_of_the_weights_that_are_kept(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    folder = run / BEST / BEST_LORA
    trial = json.loads((folder / TRIAL).read_text())
    expected = commands(
        look(folder, base="tiny", stop_texts=["\n</pre>"], learning_rate=trial["learning_rate"], batch_size=8)
    )
    box, all_of_them = page.split('id="use-title"')
    first, found = (
        [
            unescape(part.partition("</code>")[0])
            for part in source.split('<pre class="command whole" tabindex="0"><code>')[1:]
        ]
        for source in (box, all_of_them)
    )
    assert found == [command.text for command in expected]
    assert first[0].startswith("vllm serve ")
    assert first[1:] == [command.text for command in expected if command.text.startswith("lowregret ship ")] != []
    assert "<b>it" not in page


def test_without_weights_there_is_no_section(run: Path) -> None:
    (run / BEST / BEST_LORA / "adapter_config.json").unlink()
    assert use(run, "tiny", 8) == ""
    assert 'id="use-title"' not in write_report(run).read_text(encoding="utf-8")


def test_a_damaged_record_beside_them_is_named(run: Path) -> None:
    (run / BEST / BEST_LORA / TRIAL).write_text("{")
    with pytest.raises(RecordsError, match=r"trial\.json"):
        use(run, "tiny", 8)
