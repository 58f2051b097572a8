"""A merged folder in plain transformers gives what PEFT gives with the adapter on its base, not merged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.export.merged.opened import opened
from lowregret.export.merged.write import Written, write_merged
from lowregret.export.peft import export_policy
from lowregret.spec import LoRA

TOLERANCE = 5e-5
"""In logits as large as 6, which float32 sums in another order: up to 2.1e-5 (gpt-oss)."""
MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]
IDS = torch.randint(2, 64, (4, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quietly() -> Any:
    """PEFT warns of tied embeddings, and of fields that it follows all the same."""
    with warnings.catch_warnings(action="ignore"):
        yield


def saved(bases: ModuleType, architecture: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A base as transformers stores it, with its tokenizer."""
    base = bases.small_base(architecture)
    base.model.to(dtype).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by the names of its files."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in safetensors.torch.load_file(file).items()}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model.eval()(input_ids=IDS).logits
    return found.float()


def reread(folder: Path, dtype: torch.dtype | None = None) -> Tensor:
    """The logits of a folder in plain transformers; no weight of it is missing or left over."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
    left = {key: found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if found[key]}
    assert not left
    return logits(model)


def merge(base: Path, adapters: Sequence[tuple[Path, float]], out: Path, **options: Any) -> Written:
    with opened(str(base), adapters) as weights:
        return write_merged(weights, out, **options)


def differ(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def stirred(model: Any, seed: int = 3, size: float = 0.2) -> Any:
    """Random numbers on all that an adapter has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight += size * torch.randn(weight.shape, generator=generator)
    return model


def their_adapter(bases: ModuleType, architecture: str, folder: Path, **options: Any) -> Tensor:
    """Save an adapter that PEFT made, and give the logits that PEFT has with it."""
    model: Any = bases.small_model(architecture)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
    wrapped = stirred(peft.get_peft_model(model, config))
    with suppress(OSError):  # it asks the hub for the base's vocabulary
        wrapped.save_pretrained(folder)
    return logits(wrapped)


def our_adapter(bases: ModuleType, architecture: str, folder: Path, method: LoRA, **options: Any) -> Tensor:
    """The same of an adapter of ours."""
    engine = Engine(bases.small_base(architecture))
    bases.stir(engine.add_policy("lora", method))
    export_policy(engine, "lora", folder, **options)
    return logits(peft.PeftModel.from_pretrained(bases.small_model(architecture), str(folder)))


def test_every_architecture_with_its_unembedding(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    """Tied (qwen3, gemma2, gpt2, opt) and not (llama, phi3, gpt_neox); cut into several files."""
    base = saved(bases, architecture, tmp_path / "base")
    method = LoRA(rank=4, alpha=8, targets=("attention", "mlp", "unembedding"))
    expected = our_adapter(bases, architecture, tmp_path / "adapter", method)
    written = merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out", shard_bytes=10_000)
    assert len(written.files) > 1
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE
    assert differ(logits(bases.small_model(architecture)), expected) > 1, "the adapter does nothing"


@pytest.mark.parametrize("convention", ["per-active", "shared-outer"])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_every_mixture_with_experts_and_router(
    bases: ModuleType, architecture: str, convention: Any, tmp_path: Path
) -> None:
    base = saved(bases, architecture, tmp_path / "base")
    method = LoRA(rank=8, alpha=8, targets=("attention", "mlp", "router", "unembedding"), convention=convention)
    expected = our_adapter(bases, architecture, tmp_path / "adapter", method)
    merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE
    assert differ(logits(bases.small_model(architecture)), expected) > 1, "the adapter does nothing"


@pytest.mark.parametrize("architecture", MIXTURES)
def test_peft_s_own_adapters_of_experts(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    base = saved(bases, architecture, tmp_path / "base")
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    options = {"target_modules": ["o_proj"], "target_parameters": parameters}
    expected = their_adapter(bases, architecture, tmp_path / "adapter", **options)
    merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_no_expert_is_left_unmerged(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    """What unsloth#5410 reports: files that say merged, with the base's experts in them. In the layout that vLLM reads,
    too."""
    base = saved(bases, architecture, tmp_path / "base")
    method = LoRA(rank=4, alpha=8, targets=("experts",), convention="full-rank-each")
    expected = our_adapter(bases, architecture, tmp_path / "peft", method)
    engine = Engine(bases.small_base(architecture))
    bases.stir(engine.add_policy("lora", method))
    export_policy(engine, "lora", tmp_path / "each", each_expert=True)
    before = stored(base)
    experts = [name for name in before if ".experts." in name]
    assert len(experts) == 2 * 4 * 3, "layers, experts, matrices"
    for form in ("peft", "each"):
        merge(base, [(tmp_path / form, 1)], tmp_path / f"{form} merged")
        after = stored(tmp_path / f"{form} merged")
        assert not [name for name in experts if torch.equal(before[name], after[name])]
        assert differ(reread(tmp_path / f"{form} merged"), expected) < TOLERANCE


@pytest.mark.parametrize("targets", [("experts",), ("attention", "mlp", "router")], ids="+".join)
def test_experts_that_a_file_has_by_their_names_in_memory(
    bases: ModuleType, targets: tuple[str, ...], tmp_path: Path
) -> None:
    """Fused on the disk, too; they stay so."""
    base = saved(bases, "qwen3_moe", tmp_path / "base")
    fused = {name: weight.contiguous() for name, weight in bases.small_model("qwen3_moe").state_dict().items()}
    safetensors.torch.save_file(fused, base / "model.safetensors", {"format": "pt"})
    method = LoRA(rank=8, alpha=16, targets=targets)
    expected = our_adapter(bases, "qwen3_moe", tmp_path / "adapter", method)
    merge(base, [(tmp_path / "adapter", 1.0)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE
    assert stored(tmp_path / "out").keys() == fused.keys()


def test_an_adapted_unembedding_is_written(bases: ModuleType, tmp_path: Path) -> None:
    """What unsloth#4098 reports: the update of lm_head is gone from the merged files."""
    base = saved(bases, "llama", tmp_path / "base")
    expected = their_adapter(bases, "llama", tmp_path / "adapter", target_modules=["lm_head"])
    merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    lora = safetensors.torch.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.lm_head.lora_{factor}.weight"] for factor in "AB")
    before, after = stored(base), stored(tmp_path / "out")
    torch.testing.assert_close(after["lm_head.weight"], before["lm_head.weight"] + 2 * b @ a)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["lm_head.weight"]
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt2", "opt"])
def test_a_tied_unembedding_is_untied_and_the_embedding_stays(
    bases: ModuleType, architecture: str, tmp_path: Path
) -> None:
    """What unsloth#3428 and PEFT#2368 report: one of the two is lost, or the embedding gets the update as well."""
    base = saved(bases, architecture, tmp_path / "base")
    expected = their_adapter(bases, architecture, tmp_path / "adapter", target_modules=["lm_head"])
    merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    before, after = stored(base), stored(tmp_path / "out")
    assert set(after) - set(before) == {"lm_head.weight"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE


def test_a_tied_base_whose_files_have_the_unembedding_alone_or_both(bases: ModuleType, tmp_path: Path) -> None:
    expected = their_adapter(bases, "qwen3", tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    for name in ("alone", "both"):
        base = saved(bases, "qwen3", tmp_path / name)
        tensors = stored(base)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        if name == "alone":
            del tensors["model.embed_tokens.weight"]
        safetensors.torch.save_file(tensors, base / "model.safetensors", {"format": "pt"})
        merge(base, [(tmp_path / "adapter", 1)], tmp_path / f"{name} merged")
        assert differ(reread(tmp_path / f"{name} merged"), expected) < TOLERANCE


VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora on the unembedding": {"use_dora": True, "target_modules": ["lm_head", "v_proj"]},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "pissa of rslora and dora": {"init_lora_weights": "pissa", "use_rslora": True, "use_dora": True},
    "ranks of their own": {
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
        "alpha_pattern": {"v_proj": 3},
    },
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_variants_as_peft_saves_them(bases: ModuleType, architecture: str, variant: str, tmp_path: Path) -> None:
    base = saved(bases, architecture, tmp_path / "base")
    options = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], **VARIANTS[variant]}
    expected = their_adapter(bases, architecture, tmp_path / "adapter", **options)
    merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE


@pytest.mark.parametrize("fields", [{"init": "pissa"}, {"init": "olora"}, {"dora": True}], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_variants_as_we_save_them(
    bases: ModuleType, architecture: str, fields: Mapping[str, Any], tmp_path: Path
) -> None:
    base = saved(bases, architecture, tmp_path / "base")
    method = LoRA(rank=4, alpha=8, targets=("attention", "mlp"), **fields)
    expected = our_adapter(bases, architecture, tmp_path / "adapter", method)
    merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE


def test_gpt2_as_the_hub_has_it_and_peft_s_dora_on_it(bases: ModuleType, tmp_path: Path) -> None:
    """Its files are those of the model without its unembedding: no name begins with `transformer.`."""
    model: Any = bases.small_model("gpt2")
    model.transformer.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    bases.small_tokenizer().save_pretrained(tmp_path / "base")
    assert "h.0.attn.c_attn.weight" in stored(tmp_path / "base")
    for dora in (False, True):
        options = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": dora}
        expected = their_adapter(bases, "gpt2", tmp_path / f"adapter {dora}", **options)
        merge(tmp_path / "base", [(tmp_path / f"adapter {dora}", 1)], tmp_path / f"out {dora}")
        assert differ(reread(tmp_path / f"out {dora}"), expected) < TOLERANCE
    method = LoRA(rank=4, alpha=8, targets=("attention", "unembedding"))
    expected = our_adapter(bases, "gpt2", tmp_path / "adapter", method)
    merge(tmp_path / "base", [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), expected) < TOLERANCE


@pytest.mark.parametrize("composite", [False, True], ids=["text alone", "text in a model of images"])
def test_gemma_3(bases: ModuleType, composite: bool, tmp_path: Path) -> None:
    """A model of images and text keeps the text's settings in text_config, and its files have names of their own."""
    text = transformers.Gemma3TextConfig(
        **bases.GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=6, layer_types=["sliding_attention"] * 2
    )
    config: Any = text
    if composite:
        size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = {**size, "image_size": 8, "patch_size": 4}
        config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "base")
    bases.small_tokenizer().save_pretrained(tmp_path / "base")
    targets = (
        r".*(self_attn\.q_proj|mlp\.up_proj|lm_head)" if not composite else r".*language_model.*(q|up)_proj|lm_head"
    )
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    wrapped = stirred(peft.get_peft_model(model, lora))
    with suppress(OSError):
        wrapped.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "base", [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert set(stored(tmp_path / "base")) < set(stored(tmp_path / "out"))
    assert differ(reread(tmp_path / "out"), logits(wrapped)) < TOLERANCE


def test_two_adapters_by_shares(bases: ModuleType, tmp_path: Path) -> None:
    """PEFT's `cat` is the exact sum; of other matrices, other ranks and other scales."""
    base = saved(bases, "llama", tmp_path / "base")
    options = [{"target_modules": ["q_proj", "up_proj"]}, {"target_modules": ["q_proj", "down_proj"], "r": 2}]
    for name, more in zip("ab", options, strict=True):
        their_adapter(bases, "llama", tmp_path / name, **more)
    model: Any = peft.PeftModel.from_pretrained(bases.small_model("llama"), str(tmp_path / "a"), adapter_name="a")
    model.load_adapter(str(tmp_path / "b"), adapter_name="b")
    alone = {name: _update(model, name) for name in "ab"}
    merge(base, [(tmp_path / "a", 0.7), (tmp_path / "b", -0.3)], tmp_path / "out")
    before, after = stored(base), stored(tmp_path / "out")
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        added = sum(share * alone[which].get(module, 0) for which, share in (("a", 0.7), ("b", -0.3)))
        torch.testing.assert_close(after[name], weight + added, rtol=1e-6, atol=1e-6)
    both = {"q_proj": 2, "up_proj": 1, "down_proj": 1}
    for last, count in both.items():
        assert sum(f"{last}" in module for one in alone.values() for module in one) == 2 * count, "two layers"


def test_dora_beside_a_plain_adapter_is_the_sum_of_what_each_changes(bases: ModuleType, tmp_path: Path) -> None:
    base = saved(bases, "llama", tmp_path / "base")
    their_adapter(bases, "llama", tmp_path / "a", target_modules=["q_proj"], use_dora=True)
    their_adapter(bases, "llama", tmp_path / "b", target_modules=["q_proj"])
    for name in "ab":
        merge(base, [(tmp_path / name, 1)], tmp_path / f"{name} alone")
    merge(base, [(tmp_path / "a", 0.5), (tmp_path / "b", 2)], tmp_path / "out")
    before, a, b, after = (stored(tmp_path / name) for name in ("base", "a alone", "b alone", "out"))
    for name, weight in before.items():
        expected = weight + 0.5 * (a[name] - weight) + 2 * (b[name] - weight)
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-5)


def _update(model: Any, adapter: str) -> dict[str, Tensor]:
    """{module: what PEFT would add}."""
    found = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and adapter in module.lora_A:
            found[name] = module.get_delta_weight(adapter).detach()
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_s_sum_rounded_once(
    bases: ModuleType, dtype: torch.dtype, tmp_path: Path, record_property: Any
) -> None:
    """To the bit, from a base in half precision and from one in float32; and how many updates that costs."""
    their_adapter(bases, "llama", tmp_path / "adapter", target_modules=["q_proj", "up_proj", "lm_head"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    lora = safetensors.torch.load_file(file)
    lora["base_model.model.lm_head.lora_B.weight"][:20] = 0  # rows that are not updated are not lost
    safetensors.torch.save_file(lora, file, {"format": "pt"})
    whole = peft.PeftModel.from_pretrained(bases.small_model("llama"), str(tmp_path / "adapter"))
    added = {f"{name}.weight": delta * 0.02 for name, delta in _update(whole, "default").items()}
    for name, stored_as, asked in (("float32", torch.float32, dtype), ("half", dtype, None)):
        base = saved(bases, "llama", tmp_path / name, stored_as)
        written = merge(base, [(tmp_path / "adapter", 0.02)], tmp_path / f"{name} merged", dtype=asked)
        before, after = stored(base), stored(tmp_path / f"{name} merged")
        updated = lost = 0
        for key, weight in before.items():
            delta = added.get(key, torch.zeros(()))
            exact = weight.float() + delta
            assert after[key].dtype == dtype
            # PEFT multiplies A and B in another order, which may move a sum over the edge between two numbers.
            off = after[key] != exact.to(dtype)
            assert float(off.float().mean()) < 1e-3, key
            updated += int((delta != 0).sum())
            lost += int(((delta != 0) & (after[key] == weight.to(dtype))).sum())
        assert written.updates_lost == pytest.approx(lost / updated, abs=1e-6)
        record_property(f"updates lost, base in {name}", written.updates_lost)
        assert 0 < lost < updated / 2
        assert json.loads((tmp_path / f"{name} merged" / "config.json").read_text())["dtype"] == str(dtype)[6:]
        exact_model = bases.small_model("llama").to(stored_as).float()
        with torch.no_grad():
            for module, delta in added.items():
                exact_model.get_parameter(module).add_(delta)
        bound = 0.2 if dtype is torch.bfloat16 else 0.025
        assert differ(reread(tmp_path / f"{name} merged", torch.float32), logits(exact_model)) < bound


def test_what_a_family_keeps_in_float32_stays_so(bases: ModuleType, tmp_path: Path) -> None:
    """DeepSeek-V3 chooses experts by a bias that transformers never rounds."""
    base = saved(bases, "deepseek_v3", tmp_path / "base")
    merge(base, [], tmp_path / "out", dtype=torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in stored(tmp_path / "out").items()}
    kept = [name for name, dtype in dtypes.items() if dtype is torch.float32]
    assert kept
    assert all(name.endswith("e_score_correction_bias") for name in kept)
    reread(tmp_path / "out")


def test_a_gguf_base_is_merged_into_what_it_is_dequantised_to(
    load_module: Any, bases: ModuleType, tmp_path: Path
) -> None:
    files = load_module(Path(__file__).parents[1] / "gguf_files.py")
    made = files.model("Llama")
    file = files.write(tmp_path / "base.gguf", "llama", files.tensors(made, "llama"), files.fields(made))
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    wrapped = stirred(peft.get_peft_model(made, lora))
    with suppress(OSError):
        wrapped.save_pretrained(tmp_path / "adapter")
    merge(file, [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert differ(reread(tmp_path / "out"), logits(wrapped)) < 1e-4


def test_a_matrix_that_the_files_lack_is_an_error_by_name(bases: ModuleType, tmp_path: Path) -> None:
    their_adapter(bases, "mixtral", tmp_path / "adapter", target_modules=[], target_parameters=["experts.down_proj"])
    base = saved(bases, "mixtral", tmp_path / "base")
    tensors = stored(base)
    tensors.pop("model.layers.1.block_sparse_moe.experts.3.w2.weight")
    safetensors.torch.save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"expert 3 of model\.layers\.1\.mlp\.experts\.down_proj: is adapted"):
        merge(base, [(tmp_path / "adapter", 1)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
