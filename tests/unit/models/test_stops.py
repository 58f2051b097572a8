"""Where completions end: one answer for the sampler, the exports, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers
from tokenizers import pre_tokenizers

from lowregret.engine import Engine
from lowregret.export.peft import export_policy
from lowregret.models.load import Base, Source
from lowregret.models.stops import stops
from lowregret.spec import FullFT, LoRA, Method

CHAT = "{% for m in messages %}{{ m.role }} {{ m.content }} END {% endfor %}"


def base(bases: ModuleType, configured: Any, end: str = "w9", template: str | None = CHAT) -> Base:
    """Its EOS is 1, its chat template ends turns with the special token `end`."""
    found = bases.small_base("qwen3")
    found.model.generation_config.eos_token_id = configured
    tokenizer = found.tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens({"additional_special_tokens": [end]} if end else {})
    tokenizer.chat_template = template and template.replace("END", end)
    return found


@pytest.mark.parametrize(
    ("configured", "ids", "missing"),
    [
        (None, (9, 1), (9, 1)),
        (1, (1, 9), (9,)),
        ([7, 1], (7, 1, 9), (9,)),
        ([1, 9, 7], (1, 9, 7), ()),
        (9, (9, 1), (1,)),
    ],
)
def test_all_three_that_know_an_end_are_asked(bases: ModuleType, configured: Any, ids: Any, missing: Any) -> None:
    found = stops(base(bases, configured))
    assert (found.ids, found.missing, found.texts) == (ids, missing, ())
    assert bool(found.lines()) == bool(missing)
    assert all("w9" in line for line in found.lines())


@pytest.mark.parametrize("method", [FullFT(), LoRA(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize(("configured", "written"), [(1, [1, 9]), ([1, 9, 7], [1, 9, 7]), (None, [9, 1])])
def test_exports_stop_where_the_sampler_does(
    bases: ModuleType, tmp_path: Path, method: Method, configured: Any, written: Any
) -> None:
    engine = Engine(base(bases, configured))
    engine.add_policy("a", method)
    export_policy(engine, "a", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == written
    assert engine.model.generation_config.eos_token_id == configured  # type: ignore[union-attr]
    if isinstance(method, FullFT):
        served = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        again = Base(served, engine.base.tokenizer, Source("out", "out"))
        assert stops(again).ids == tuple(written)
        assert not stops(again).missing


def test_a_generation_configuration_that_transformers_would_not_save_is_kept(bases: ModuleType, tmp_path: Path) -> None:
    """Llama 2 came with a temperature beside do_sample=False."""
    engine = Engine(base(bases, 1))
    engine.model.generation_config.temperature = 0.6  # type: ignore[union-attr]
    engine.model.generation_config.do_sample = False  # type: ignore[union-attr]
    engine.add_policy("a", FullFT())
    export_policy(engine, "a", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (written["temperature"], written["eos_token_id"]) == (0.6, [1, 9])


@pytest.mark.parametrize(
    ("end", "template", "eos", "words"),
    [
        ("", CHAT, True, "ends a turn by no token but by text: completions end at <eos> or '  user'"),
        ("", "{% for m in messages %}{{ m.content }} {% endfor %}", True, "ends a turn by nothing"),
        ("", "{% for m in messages %}{{ m.content }} {% endfor %}", False, "nothing ends a completion"),
        ("", None, False, "nothing ends a completion"),
        ("", None, True, None),
    ],
)
def test_it_is_said_when_no_token_ends_a_turn(
    bases: ModuleType, end: str, template: str | None, eos: bool, words: str | None
) -> None:
    found = base(bases, 1 if eos else None, end, template)
    if not eos:
        found.tokenizer.eos_token = None
    lines = stops(found).lines()
    assert [words in line for line in lines] == ([True] if words else [])
    if words and "nothing" in words:
        assert stops(found).lines(("###",)) == []


def test_an_adapter_says_what_its_server_must_know(bases: ModuleType, tmp_path: Path) -> None:
    (line,) = stops(base(bases, 1)).serving_lines(tmp_path)
    assert "does not name w9" in line
    assert str(tmp_path) in line
    assert stops(base(bases, [1, 9])).serving_lines(tmp_path) == []
    (line,) = stops(base(bases, 1, "")).serving_lines(tmp_path)
    assert "'  user'" in line
