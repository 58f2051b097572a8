"""Model cards: what huggingface_hub reads out of them, and what must not stand in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import ModelCard

from lowregret.errors import RecordsError
from lowregret.export.card import card_data, write_card
from lowregret.export.card_facts import CardFacts, card_facts, public_data, public_task
from lowregret.export.hub_base import Licence
from lowregret.runs.commands import Command, commands, on_hub
from lowregret.runs.files import BEST, BEST_FULL, BEST_LORA, SPEC, TRIAL, VERDICT
from lowregret.runs.forms import look
from lowregret.runs.lock import stored_spec
from lowregret.runs.study import read_trials
from lowregret.spec import FullFT, LoRA
from lowregret.strict_json import to_json


@pytest.fixture
def best(studies: ModuleType, tmp_path: Path) -> Path:
    """best/ of a compare, with its records; the weights do not matter."""
    run: Path = studies.write_study(tmp_path / "secret place" / "run")
    for kind, wanted in ((BEST_LORA, LoRA), (BEST_FULL, FullFT)):
        folder = run / BEST / kind
        folder.mkdir(parents=True)
        found = next(t for t in read_trials(run) if isinstance(t.spec.method, wanted) and t.status == "finished")
        (folder / TRIAL).write_text(found.model_dump_json())
        config = "adapter_config.json" if kind == BEST_LORA else "config.json"
        (folder / config).write_text(json.dumps({"r": 16, "base_model_name_or_path": "a/b"}))
    return run / BEST


def read(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md")


def test_the_card_of_a_run_says_what_its_records_say(best: Path, tmp_path: Path, proven: Any) -> None:
    folder = best / BEST_LORA
    facts = card_facts(folder, "peft", base="org/base", proof=proven())
    use = on_hub(look(folder, base="org/base"), "me/x", facts.base)
    write_card(tmp_path, facts, use)
    card, trial = read(tmp_path), facts.trial
    assert trial is not None
    assert card.data.base_model == "org/base"
    assert card.data.base_model_relation == "adapter"
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert card.data.license is None
    (result,) = card.data.eval_results
    assert result.metric_value == trial.test_nll
    assert f"| Learning rate | {trial.learning_rate:.4g} |" in card.text
    assert isinstance(trial.spec.method, LoRA)
    assert f"| Rank | {trial.spec.method.rank} |" in card.text
    assert facts.verdict is not None
    assert facts.verdict.reasons[0].split("(")[0].strip() in card.text.replace("\\", "")
    assert "| Largest difference | 1.5e-05 |" in card.text
    assert "## Intended use\n\n**To be filled in.**" in card.text
    assert "## Limits\n\n**To be filled in.**" in card.text
    assert "PeftModel.from_pretrained" in card.text
    assert "lowregret ship" not in card.text


@pytest.mark.parametrize(
    ("form", "changed", "relation", "library"),
    [
        ("peft", {}, "adapter", "peft"),
        ("gguf-lora", {}, "adapter", "gguf"),
        ("merged", {}, "finetune", "transformers"),
        ("merged", {"adapters": 2}, "merge", "transformers"),
        ("gguf", {}, "finetune", "gguf"),
    ],
)
def test_how_it_stands_to_its_base(form: Any, changed: dict[str, Any], relation: str, library: str) -> None:
    facts = CardFacts(form=form, name="x", base="org/base", base_label="base", **changed)
    data = card_data(facts)
    assert data.get("base_model_relation") == relation
    assert data.library_name == library
    assert data.base_model == changed.get("precise", "org/base")


def test_full_fine_tuning_is_no_lora(best: Path, tmp_path: Path) -> None:
    facts = card_facts(best / BEST_FULL, "merged", base="org/base")
    write_card(tmp_path, facts)
    assert "full-fine-tuning" in read(tmp_path).data.tags
    assert "lora" not in read(tmp_path).data.tags
    assert "after full fine-tuning" in read(tmp_path).text


def test_an_adapter_that_is_not_ours_has_a_card_of_what_it_tells(tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    other.mkdir()
    out.mkdir()
    said = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "base_model_name_or_path": "/home/me/base"}
    (other / "adapter_config.json").write_text(json.dumps(said))
    write_card(out, card_facts(other, "peft", base="org/base"))
    card = read(out)
    assert "| Rank | 8 |" in card.text
    assert "| Targets | q\\_proj |" in card.text
    assert card.data.eval_results is None
    assert "/home" not in card.content


def test_a_base_without_a_name_is_asked_for(tmp_path: Path) -> None:
    write_card(tmp_path, CardFacts(form="peft", name="x", base_label="tiny"))
    card = read(tmp_path)
    assert card.data.base_model is None
    assert "base_model_relation" not in card.data.to_dict()
    assert "set `base_model` above" in card.text


def test_the_licence_is_that_of_the_base_or_is_asked_for(tmp_path: Path) -> None:
    facts = CardFacts(form="peft", name="x", base="a/b", base_label="b")
    write_card(tmp_path, facts)
    assert "## Licence\n\n**To be filled in.**" in read(tmp_path).text
    write_card(tmp_path, dataclasses.replace(facts, licence=Licence(("other",), "own-1", "https://example.org/l")))
    card = read(tmp_path)
    assert (card.data.license, card.data.license_name, card.data.license_link) == (
        "other", "own-1", "https://example.org/l",
    )  # fmt: skip
    assert "## Licence" not in card.text


HOSTILE = "x\n---\n# pwned\n```\n<script>alert(1)</script> | [a](javascript:b) \u202e\x1b[2J {{ 7 * 7 }} 'q' \"r\" # c"


def test_no_name_of_others_is_yaml_or_markdown(best: Path, tmp_path: Path, proven: Any) -> None:
    run = best.parent
    head = json.loads((run / SPEC).read_text())
    head["spec"]["data"] |= {"train": f"/data/{HOSTILE}.jsonl"}
    (run / SPEC).write_text(to_json(head))
    facts = card_facts(best / BEST_LORA, "peft", base=f"/models/{HOSTILE}", proof=proven(reader=HOSTILE, note=HOSTILE))
    write_card(tmp_path, facts)
    card = read(tmp_path)
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert "\n# pwned" not in card.text
    assert "<script" not in card.text.replace("\\<", "")
    assert "\x1b" not in card.content
    assert "\u202e" not in card.content
    assert sum(line == "---" for line in card.content.splitlines()) == 2


def test_a_fence_holds_whatever_a_command_holds(tmp_path: Path) -> None:
    use = [Command("x", "y", "python", "print('''\n```\n# pwned\n````\n''')")]
    write_card(tmp_path, CardFacts(form="peft", name="x", base="a/b", base_label="b"), use)
    text = read(tmp_path).text
    assert text.count("`````python") == 1
    assert text.index("`````python") < text.index("# pwned") < text.rindex("`````")


def test_no_place_of_this_machine_stands_in_it(best: Path, tmp_path: Path, proven: Any) -> None:
    run = best.parent
    base, data = tmp_path / "secret place" / "base", tmp_path / "secret place" / "rows.jsonl"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"_name_or_path": str(base)}))
    data.touch()
    head = json.loads((run / SPEC).read_text())
    head["spec"]["data"] |= {"train": str(data), "eval": f"{data},{data}2"}
    head["spec"]["model"] = str(base)
    verdict = json.loads((run / VERDICT).read_text())
    (run / VERDICT).write_text(to_json(verdict | {"reasons": [f"See /srv/secret/x and <b>{base}</b>."]}))
    (run / SPEC).write_text(to_json(head))
    (best / BEST_LORA / "adapter_config.json").write_text(
        json.dumps({"r": 16, "base_model_name_or_path": str(base), "target_modules": ["q_proj"]})
    )
    facts = card_facts(best / BEST_LORA, "peft", base=str(base), proof=proven(reference=f"the model in {base}"))
    use = on_hub(look(best / BEST_LORA, base=str(base)), "me/x", facts.base)
    write_card(tmp_path, facts, use)
    content = read(tmp_path).content
    assert "secret place" not in content
    assert "rows.jsonl" in content
    assert "/srv" not in content
    assert "<b>" not in content.replace("\\<", "")
    assert "BASE" in content


def test_a_command_with_a_place_stops_the_card(best: Path, tmp_path: Path) -> None:
    folder = best / BEST_LORA
    with pytest.raises(RecordsError, match="a place of this machine"):
        write_card(tmp_path, card_facts(folder, "peft", base="a/b"), commands(look(folder.resolve(), base="a/b")))
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("source", "label", "hub"),
    [
        ("builtin:arithmetic:digits=2", "builtin:arithmetic:digits=2", None),
        ("gym:countdown", "gym:countdown", None),
        ("openai/gsm8k:main", "openai/gsm8k:main", "openai/gsm8k"),
        ("org/data-v1.5", "org/data-v1.5", "org/data-v1.5"),
        ("/home/me/rows.jsonl", "rows.jsonl", None),
        ("rows/a.jsonl,rows/b.jsonl", "a.jsonl, b.jsonl", None),
        ("rows/train.jsonl", "train.jsonl", None),
        ("~/data/", "data", None),
        ("../x/*.parquet", "*.parquet", None),
        ("C:\\data\\x.csv", "x.csv", None),
        ("src/lowregret", "lowregret", None),  # a folder that is there
        ("src/gone", "gone", None),  # in one that is there
    ],
)
def test_data_are_told_without_their_place(source: str, label: str, hub: str | None) -> None:
    found = public_data(source)
    assert (found.label, found.hub) == (label, hub)


def test_a_reward_is_told_without_its_place() -> None:
    assert public_task("/home/me/reward.py:grade") == "reward.py:grade"
    assert public_task("gym:countdown:a=1") == "gym:countdown:a=1"


def test_the_spec_that_a_card_reads_is_the_runs(best: Path) -> None:
    assert card_facts(best / BEST_LORA, "peft", base="a/b").asked == stored_spec(best.parent / SPEC)["spec"]
