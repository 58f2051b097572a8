"""A bundled base is made by its recipe's command; here by one of the same shape that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tools import model_card, pretrain

from lowregret.engine import Engine
from lowregret.models.load import load_base, resolve
from lowregret.spec import FullFT, read_toml

RECIPE = Path(__file__).parents[2] / "tools" / "recipes" / "pretrain_tiny_moe.toml"


def test_a_card_is_about_the_weights_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = read_toml(RECIPE)
    assert values["stored"] == "bfloat16"
    values["architecture"] |= {"layers": 1, "hidden_size": 32, "heads": 2, "key_value_heads": 2, "head_size": 16}
    values["corpus"] |= {"documents": 64, "held_out": 40, "people": 8}
    spec = pretrain.PretrainSpec.model_validate(values)
    measured: list[Engine] = []

    def rates(engine: Engine, policy: str, known: object) -> dict[str, float]:
        measured.append(engine)
        return {"arithmetic, 1 steps": 0.5}

    monkeypatch.setattr(model_card, "solve_rates", rates)
    folder = pretrain.pretrain(spec, RECIPE.name, tmp_path)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    card = json.loads((folder / "card.json").read_text())
    assert card["parameters"] == sum(tensor.numel() for tensor in stored.values())
    said = (folder / "README.md").read_text()
    assert "A Qwen3-MoE (8 experts in each layer, 2 for each token)" in said
    assert "bfloat16), pretrained" in said

    engine = Engine(load_base(resolve(str(folder))), precision="float32")
    for name, weight in measured[0].model.state_dict().items():
        assert weight.dtype is torch.float32
        assert torch.equal(weight, engine.model.state_dict()[name]), "what was measured is what is stored"
    engine.add_policy("full", FullFT())
    held_out = list(pretrain.documents(spec, spec.seed + 3, 40))
    losses = pretrain.evaluate(engine, ["full"], pretrain.encode_documents(held_out, engine.base.tokenizer))["full"]
    found = [nll for document, nll in zip(held_out, losses.nll_sums, strict=True) if document.kind == "arithmetic"]
    assert card["losses"]["arithmetic"]["nats_per_document"] == pytest.approx(sum(found) / len(found), rel=1e-9)
