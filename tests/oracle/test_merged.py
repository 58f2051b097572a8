"""A merged folder in plain transformers answers as PEFT does with the adapter unmerged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from lowregret.engine import Engine
from lowregret.export.merged.opened import opened
from lowregret.export.merged.write import write_merged
from lowregret.export.peft import export_policy
from lowregret.models.load import load_base, resolve
from lowregret.spec import LoRA

EXACT = 2e-5
"""Largest difference of logits in float32: two ways to sum the same products. Logits here are up to about 20."""
MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]
TARGETS = {
    "llama": ["q_proj", "v_proj", "up_proj", "down_proj"],
    "qwen3": ["q_proj", "o_proj", "gate_proj"],
    "gemma2": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "opt": ["q_proj", "fc1"],
}
Adapted = Callable[..., Path]


@pytest.fixture
def base_folder(bases: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """A small base in a folder, as transformers writes it."""

    def write(architecture: str, dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / architecture
        bases.small_model(architecture).to(dtype).save_pretrained(folder)
        bases.small_tokenizer().save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def adapter_of(tmp_path: Path) -> Adapted:
    """An adapter that PEFT makes and saves, its weights stirred."""

    def write(base: Path, name: str = "adapter", seed: int = 3, **options: Any) -> Path:
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
        model = peft.get_peft_model(_plain(base), config)
        generator = torch.Generator().manual_seed(seed)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def _plain(folder: Path) -> Any:
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not {*report["missing_keys"], *report["unexpected_keys"]}
    return model.eval()


def _logits(bases: ModuleType, model: Any) -> Tensor:
    ids, mask, _ = bases.padded(bases.examples(8))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[mask.bool()].float()


def merge(
    base: Path, out: Path, *adapters: Path | tuple[Path, float], dtype: torch.dtype | None = None, shard: int = 10**9
) -> float | None:
    """As the verb does it; the share of updates that were lost."""
    asked: Sequence[tuple[Path, float]] = [a if isinstance(a, tuple) else (a, 1.0) for a in adapters]
    with opened(str(base), asked, dtype) as found:
        write_merged(found, out, shard)
    return found.updates_lost


def _unmerged(bases: ModuleType, base: Path, adapter: Path) -> Tensor:
    return _logits(bases, peft.PeftModel.from_pretrained(_plain(base), str(adapter)).eval())


def _assert_same(bases: ModuleType, base: Path, adapter: Path, out: Path, bound: float = EXACT) -> None:
    expected, found = _unmerged(bases, base, adapter), _logits(bases, _plain(out))
    assert float((found - expected).abs().max()) < bound
    assert float((expected - _logits(bases, _plain(base))).abs().max()) > 100 * bound, "the adapter does something"


@pytest.mark.parametrize("architecture", TARGETS)
def test_merged_is_peft_unmerged(
    bases: ModuleType, base_folder: Callable[..., Path], adapter_of: Adapted, architecture: str, tmp_path: Path
) -> None:
    base = base_folder(architecture)
    adapter = adapter_of(base, target_modules=TARGETS[architecture], fan_in_fan_out=architecture == "gpt2")
    assert merge(base, tmp_path / "out", adapter) < 1e-3, "in float32 next to nothing is lost"
    _assert_same(bases, base, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_variants(
    bases: ModuleType,
    base_folder: Callable[..., Path],
    adapter_of: Adapted,
    architecture: str,
    options: dict[str, Any],
    tmp_path: Path,
) -> None:
    base = base_folder(architecture)
    asked = {"target_modules": TARGETS[architecture], "fan_in_fan_out": architecture == "gpt2", **options}
    adapter = adapter_of(base, **asked)
    merge(base, tmp_path / "out", adapter)
    _assert_same(bases, base, adapter, tmp_path / "out", 2 * EXACT)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_residual_start_is_found_again_in_the_base(
    bases: ModuleType, base_folder: Callable[..., Path], init: str, tmp_path: Path
) -> None:
    """PEFT's own file of it, not converted: its base has lost B₀ A₀, ours has not."""
    base = base_folder("llama")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=init)
    model = peft.get_peft_model(_plain(base), config)
    generator = torch.Generator().manual_seed(3)
    for key, weight in model.named_parameters():
        if "lora_" in key:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(tmp_path / "adapter")
    expected = _logits(bases, model.eval())
    merge(base, tmp_path / "out", tmp_path / "adapter")
    assert float((_logits(bases, _plain(tmp_path / "out")) - expected).abs().max()) < 10 * EXACT


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_ours_with_a_residual_start(
    bases: ModuleType, base_folder: Callable[..., Path], init: str, tmp_path: Path
) -> None:
    base = base_folder("qwen3")
    _ours(bases, base, tmp_path / "adapter", init=init, targets=("attention", "mlp"))
    merge(base, tmp_path / "out", tmp_path / "adapter")
    _assert_same(bases, base, tmp_path / "adapter", tmp_path / "out")


def _ours(bases: ModuleType, base: Path, out: Path, *, each_expert: bool = False, **fields: Any) -> None:
    engine = Engine(load_base(resolve(str(base))), precision="float32")
    bases.stir(engine.add_policy("lora", LoRA(**{"rank": 8, "alpha": 8, **fields})))
    export_policy(engine, "lora", out, each_expert=each_expert)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_the_unembedding(
    bases: ModuleType, base_folder: Callable[..., Path], architecture: str, tmp_path: Path
) -> None:
    """unsloth#4098, #3428 and PEFT#2368: it is not dropped, and a tied embedding stays as it was."""
    base, adapter, out = base_folder(architecture), tmp_path / "adapter", tmp_path / "out"
    _ours(bases, base, adapter, targets=("attention", "unembedding"))
    merge(base, out, adapter)
    _assert_same(bases, base, adapter, out)
    config, model, before = json.loads((out / "config.json").read_text()), _plain(out), _plain(base)
    assert config["tie_word_embeddings"] is False
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)
    assert not torch.equal(model.get_output_embeddings().weight, before.get_output_embeddings().weight)


def test_a_tied_embedding_stays_tied_when_only_layers_are_adapted(
    bases: ModuleType, base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base, adapter, out = base_folder("qwen3"), tmp_path / "adapter", tmp_path / "out"
    _ours(bases, base, adapter, targets=("attention",))
    merge(base, out, adapter)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in safetensors.torch.load_file(out / "model.safetensors")


def test_a_copy_of_the_tied_embedding_in_the_file_is_replaced(
    bases: ModuleType, base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base, adapter, out = base_folder("qwen3"), tmp_path / "adapter", tmp_path / "out"
    tensors = safetensors.torch.load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(tensors, base / "model.safetensors", {"format": "pt"})
    _ours(bases, base, adapter, targets=("unembedding",))
    merge(base, out, adapter)
    _assert_same(bases, base, adapter, out)


@pytest.mark.parametrize("targets", [("experts",), ("attention", "mlp", "router", "unembedding")], ids="+".join)
@pytest.mark.parametrize("convention", ["per-active", "shared-outer", "full-rank-each"])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_experts_and_router(
    bases: ModuleType,
    base_folder: Callable[..., Path],
    architecture: str,
    convention: str,
    targets: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """unsloth#5410: none of them stays behind, and they are written the way the base has them."""
    base, adapter, out = base_folder(architecture), tmp_path / "adapter", tmp_path / "out"
    _ours(bases, base, adapter, convention=convention, targets=targets)
    merge(base, out, adapter)
    _assert_same(bases, base, adapter, out, 3 * EXACT)
    before, after = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (base, out))
    assert before.keys() == after.keys()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    stays = {name for name in after if ".experts." in name} - moved
    assert all(name.endswith("_proj_bias") for name in stays), "every matrix of every expert has moved"


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_an_adapter_for_each_expert(
    bases: ModuleType, base_folder: Callable[..., Path], architecture: str, tmp_path: Path
) -> None:
    """vLLM's form; PEFT reads the other form of the same adapter."""
    base = base_folder(architecture)
    for each in (False, True):
        _ours(bases, base, tmp_path / f"adapter{each}", targets=("attention", "experts"), each_expert=each)
    merge(base, tmp_path / "out", tmp_path / "adapterTrue")
    _assert_same(bases, base, tmp_path / "adapterFalse", tmp_path / "out")


def test_experts_of_a_base_that_are_stored_fused(
    bases: ModuleType, base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """As a mixture looks that was saved by its names in memory."""
    base, adapter, out = base_folder("qwen3_moe"), tmp_path / "adapter", tmp_path / "out"
    fused = {name: weight.contiguous() for name, weight in bases.small_model("qwen3_moe").state_dict().items()}
    safetensors.torch.save_file(fused, base / "model.safetensors", {"format": "pt"})
    _ours(bases, base, adapter, targets=("experts",))
    merge(base, out, adapter)
    _assert_same(bases, base, adapter, out)
    assert safetensors.torch.load_file(out / "model.safetensors").keys() == fused.keys()


def test_two_adapters_by_weights(
    bases: ModuleType, base_folder: Callable[..., Path], adapter_of: Adapted, tmp_path: Path
) -> None:
    base = base_folder("llama")
    one = adapter_of(base, "one", target_modules=["q_proj", "up_proj"])
    two = adapter_of(base, "two", seed=4, r=6, target_modules=["up_proj", "down_proj"], use_rslora=True)
    merge(base, tmp_path / "out", (one, 0.7), (two, -0.3))
    model = peft.PeftModel.from_pretrained(_plain(base), str(one), "one")
    model.load_adapter(str(two), "two")
    for name, weight in (("one", 0.7), ("two", -0.3)):
        for module in model.modules():
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.scaling[name] *= weight
    model.base_model.set_adapter(["one", "two"])
    expected = _logits(bases, model.eval())
    assert float((_logits(bases, _plain(tmp_path / "out")) - expected).abs().max()) < EXACT


def test_a_dora_and_a_lora_each_give_what_they_would_alone(
    bases: ModuleType, base_folder: Callable[..., Path], adapter_of: Adapted, tmp_path: Path
) -> None:
    base = base_folder("llama")
    dora = adapter_of(base, "dora", target_modules=["q_proj"], use_dora=True)
    lora = adapter_of(base, "lora", seed=4, target_modules=["q_proj"])
    for out, adapters in (("dora1", [(dora, 1.0)]), ("lora1", [(lora, 1.0)]), ("both", [(dora, 0.25), (lora, 2.0)])):
        merge(base, tmp_path / out, *adapters)
    name = "model.layers.1.self_attn.q_proj.weight"
    w, d, p, both = (
        safetensors.torch.load_file(folder / "model.safetensors")[name].double()
        for folder in (base, *(tmp_path / out for out in ("dora1", "lora1", "both")))
    )
    torch.testing.assert_close(both, w + 0.25 * (d - w) + 2 * (p - w), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=str)
def test_one_rounding(
    bases: ModuleType,
    base_folder: Callable[..., Path],
    adapter_of: Adapted,
    dtype: torch.dtype,
    digits: int,
    tmp_path: Path,
) -> None:
    """Every weight is the nearest of its type to the one in float64, and the lost updates are as many as are seen."""
    base = base_folder("llama", dtype)
    adapter = adapter_of(base, target_modules=["q_proj"], lora_alpha=0.02)
    lost = merge(base, tmp_path / "out", adapter)
    before, after = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    saved = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    same = changed = 0
    for name in (name for name in before if "q_proj" in name):
        place = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (saved[f"{place}.lora_{which}.weight"].double() for which in "AB")
        exact = before[name].double() + 0.02 / 4 * (b @ a)
        error = (after[name].double() - exact).abs() / exact.abs()
        assert after[name].dtype == dtype
        assert float(error.max()) < 2.0**-digits * 1.001
        changed += exact.numel()
        same += int((after[name] == before[name]).sum())
    assert lost == pytest.approx(same / changed, abs=1e-6)
    assert 0 < lost < 1
    for name in (name for name in before if "q_proj" not in name):
        assert torch.equal(after[name], before[name])


def test_another_type_and_shards(
    bases: ModuleType, base_folder: Callable[..., Path], adapter_of: Adapted, tmp_path: Path
) -> None:
    base = base_folder("llama", torch.bfloat16)
    adapter = adapter_of(base, target_modules=["q_proj", "down_proj"])
    merge(base, tmp_path / "whole", adapter, dtype=torch.float32)
    merge(base, tmp_path / "shards", adapter, dtype=torch.float32, shard=5000)
    _assert_same(bases, base, adapter, tmp_path / "shards")
    files = sorted(tmp_path.glob("shards/*.safetensors"))
    tensors = [safetensors.torch.load_file(file) for file in files]
    assert len(files) > 3
    assert all(len(part) == 1 or sum(value.nbytes for value in part.values()) <= 5000 for part in tensors)
    whole = safetensors.torch.load_file(tmp_path / "whole" / "model.safetensors")
    assert bases.same({name: value for part in tensors for name, value in part.items()}, whole)
    assert json.loads((tmp_path / "shards" / "config.json").read_text())["dtype"] == "float32"
    again = tmp_path / "again"  # what was written is a base itself
    merge(tmp_path / "shards", again)
    assert bases.same(safetensors.torch.load_file(again / "model.safetensors"), whole)


def test_a_checkpoint_without_the_models_prefix(
    bases: ModuleType, base_folder: Callable[..., Path], adapter_of: Adapted, tmp_path: Path
) -> None:
    """As the hub has GPT-2: saved from the model without a head."""
    base = base_folder("gpt2")
    tensors = safetensors.torch.load_file(base / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    safetensors.torch.save_file(bare, base / "model.safetensors", {"format": "pt"})
    adapter = adapter_of(base, target_modules=["c_attn", "lm_head"], fan_in_fan_out=True)
    merge(base, tmp_path / "out", adapter)
    _assert_same(bases, base, adapter, tmp_path / "out")
    assert safetensors.torch.load_file(tmp_path / "out" / "model.safetensors").keys() == {*bare, "lm_head.weight"}
