"""Adapters on experts give the numbers of dense float64 and of PEFT's `target_parameters`, in training and on disk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.func import functional_call

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.errors import ModelError
from lowregret.export.peft import export_policy, load_adapter
from lowregret.models.experts import columns
from lowregret.spec import LoRA
from lowregret.spec.conventions import CONVENTIONS

MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]
RANK, ALPHA = 4, 8


def lora(rank: int = RANK, convention: Any = "full-rank-each", targets: tuple[str, ...] = ("experts",)) -> LoRA:
    return LoRA(rank=rank, alpha=ALPHA, targets=targets, convention=convention)


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
@pytest.mark.usefixtures("_double")
def test_a_whole_model_with_dense_deltas_in_float64(bases: ModuleType, architecture: str, convention: Any) -> None:
    """The experts alone agree to 1e-9 (tests/unit/lora/moe/test_experts.py).

    Around them, transformers computes norms and routers in float32, whatever the model's type: rounding there is the
    tolerance here.
    """
    base, found = bases.double_base(architecture), bases.examples(5)
    reference: Any = bases.copied(base)
    engine = Engine(base)
    policy = bases.stir(engine.add_policy("lora", lora(8, convention)))
    leaves = {
        name: (adapter.a.detach().clone().requires_grad_(), adapter.b.detach().clone().requires_grad_(), adapter.scale)
        for name, adapter in policy.adapters.items()
    }
    weights = dense(reference, leaves)
    result = engine.forward_backward({"lora": collate(found)})["lora"]

    class Adapted:
        def __call__(self, **inputs: Any) -> Any:
            return functional_call(reference, weights, (), inputs)

    expected = bases.reference_nll(Adapted(), found)
    expected.backward()
    assert float(result.loss) == pytest.approx(expected.item(), abs=1e-6)
    for name, (a, b, _) in leaves.items():
        assert bases.distance(policy.weights[f"{name}.lora_A"].grad, a.grad) < 1e-6
        assert bases.distance(policy.weights[f"{name}.lora_B"].grad, b.grad) < 1e-6


def dense(model: Any, leaves: dict[str, tuple[Tensor, Tensor, float]]) -> dict[str, Tensor]:
    """Every fused tensor with the deltas of all its experts, as autograd makes them."""
    own = dict(model.named_parameters())
    whole: dict[str, Tensor] = {}
    for name, (a, b, scale) in leaves.items():
        module, _, role = name.rpartition(".")
        experts = model.get_submodule(module)
        key = f"{module}.{'down_proj' if role == 'down_proj' else 'gate_up_proj'}"
        current = whole.get(key, own[key].detach())
        current = current.transpose(1, 2) if experts.is_transposed else current
        rows = torch.arange(current.shape[1])[columns(experts, role, current.shape[1])]
        summed = current.index_add(1, rows, (b @ a) * scale)
        whole[key] = summed.transpose(1, 2) if experts.is_transposed else summed
    return whole


def peft_model(bases: ModuleType, architecture: str) -> tuple[Any, dict[str, Any]]:
    """PEFT on both fused tensors with B that is not zero, and its wrappers by the tensor's full name."""
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=[],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    model = get_peft_model(bases.small_model(architecture), config)
    wrappers = {
        f"{name.removeprefix('base_model.model.').replace('.base_layer', '')}.{module.parameter_name}": module
        for name, module in model.named_modules()
        if type(module).__name__ == "ParamWrapper"
    }
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for wrapper in wrappers.values():
            b = wrapper.lora_B["default"].weight
            b.copy_(0.3 * torch.randn(b.shape, generator=draw))
    return model, wrappers


@pytest.mark.parametrize("architecture", MIXTURES)
def test_loss_and_gradients_are_pefts(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    """PEFT's is one LoRA on gate and up together: with the same A in both of ours, its gradient is their sum."""
    model, wrappers = peft_model(bases, architecture)
    model.save_pretrained(tmp_path)
    found = bases.examples(6)
    expected = bases.reference_nll(model, found)
    expected.backward()
    engine = Engine(bases.small_base(architecture))
    policy = load_adapter(engine, "lora", tmp_path)
    assert (policy.method.rank, policy.method.alpha, policy.method.convention) == (RANK, ALPHA, "full-rank-each")
    result = engine.forward_backward({"lora": collate(found)})["lora"]
    assert float(result.loss) == pytest.approx(expected.item(), abs=1e-5)
    for name, wrapper in wrappers.items():
        module, _, stored = name.rpartition(".")
        a, b = (getattr(wrapper, key)["default"].weight.grad for key in ("lora_A", "lora_B"))
        a, b = a.unflatten(0, (-1, RANK)), b.unflatten(1, (RANK, -1)).permute(2, 0, 1)
        if stored == "down_proj":
            ours_a, ours_b = (policy.weights[f"{name}.lora_{which}"].grad for which in "AB")
        else:
            base = engine.model.get_submodule(module).base
            ours_a = sum(policy.weights[f"{module}.{role}.lora_A"].grad for role in ("gate_proj", "up_proj"))
            ours_b = torch.empty_like(b)
            for role in ("gate_proj", "up_proj"):
                part = policy.weights[f"{module}.{role}.lora_B"].grad
                ours_b[:, columns(base, role, b.shape[1])] = part
        torch.testing.assert_close(ours_a, a, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours_b, b, rtol=1e-5, atol=1e-5)


def test_training_on_down_alone_is_pefts_step_by_step(bases: ModuleType, tmp_path: Path) -> None:
    """On down, both have the same parameters, so that the optimizer's steps are the same too."""
    model = bases.small_model("qwen3_moe")
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    network = get_peft_model(model, config)
    network.save_pretrained(tmp_path)
    engine, found = Engine(bases.small_base("qwen3_moe")), bases.examples(6)
    load_adapter(engine, "lora", tmp_path)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(8):
        loss = bases.reference_nll(network, found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ours = float(engine.forward_backward({"lora": collate(found)})["lora"].loss)
        engine.optim_step({"lora": AdamParams(5e-3)})
        assert ours == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("targets", [("experts",), ("attention", "mlp", "router")], ids="+".join)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_what_is_exported_peft_loads_and_so_do_we(
    bases: ModuleType, architecture: str, convention: Any, targets: tuple[str, ...], tmp_path: Path
) -> None:
    engine, found = Engine(bases.small_base(architecture)), bases.examples(5)
    policy = bases.stir(engine.add_policy("lora", lora(8, convention, targets)))
    loss = float(engine.forward({"lora": collate(found)})["lora"].loss)
    export_policy(engine, "lora", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected).*")
        network = PeftModel.from_pretrained(bases.small_model(architecture), str(tmp_path / "out"))
    assert bases.reference_nll(network, found).item() == pytest.approx(loss, abs=1e-5)
    again = load_adapter(engine, "again", tmp_path / "out")
    assert again.method.convention == convention
    assert bases.same(bases.weights(again), bases.weights(policy))


@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)"])
def test_scales_survive_the_export(bases: ModuleType, scaling: Any, tmp_path: Path) -> None:
    method = LoRA(rank=6, alpha=5, targets=("attention", "experts"), scaling=scaling)
    engine, found = Engine(bases.small_base("qwen3_moe")), bases.examples(5)
    bases.stir(engine.add_policy("lora", method))
    loss = float(engine.forward({"lora": collate(found)})["lora"].loss)
    export_policy(engine, "lora", tmp_path / "out")
    network = PeftModel.from_pretrained(bases.small_model("qwen3_moe"), str(tmp_path / "out"))
    assert bases.reference_nll(network, found).item() == pytest.approx(loss, abs=1e-5)
    load_adapter(engine, "again", tmp_path / "out")
    assert float(engine.forward({"again": collate(found)})["again"].loss) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_one_lora_for_each_expert_is_the_same_adapter(bases: ModuleType, convention: Any, tmp_path: Path) -> None:
    """vLLM's layout: read by the sum it stands for, B A of each expert, and read back."""
    engine, found = Engine(bases.small_base("qwen3_moe")), bases.examples(5)
    policy = bases.stir(engine.add_policy("lora", lora(8, convention, ("attention", "experts"))))
    loss = float(engine.forward({"lora": collate(found)})["lora"].loss)
    export_policy(engine, "lora", tmp_path / "out", each_expert=True)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 8
    assert not {"rank_pattern", "alpha_pattern", "target_parameters"} & {key for key, value in config.items() if value}
    assert {"gate_proj", "up_proj", "down_proj", "q_proj"} <= set(config["target_modules"])
    tensors = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, adapter in policy.adapters.items():
        if ".experts." not in name:
            continue
        module, _, role = name.rpartition(".")
        delta = adapter.delta()
        for expert in range(4):
            place = f"base_model.model.{module}.{expert}.{role}"
            a, b = tensors[f"{place}.lora_A.weight"], tensors[f"{place}.lora_B.weight"]
            assert a.shape[0] == b.shape[1] == 8, "one rank for all"
            torch.testing.assert_close(b @ a * (ALPHA / 8), delta[expert], rtol=1e-5, atol=1e-6)
    again = load_adapter(engine, "again", tmp_path / "out")
    assert again.method.convention == convention
    assert float(engine.forward({"again": collate(found)})["again"].loss) == pytest.approx(loss, abs=1e-5)


def test_files_that_do_not_fit_are_refused(bases: ModuleType, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("qwen3_moe"))
    engine.add_policy("lora", lora(8, "per-active"))
    export_policy(engine, "lora", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())

    def broken(problem: str, **fields: Any) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **fields}))
        with pytest.raises(ModelError, match=problem):
            load_adapter(engine, "again", tmp_path)
        assert list(engine.policies) == ["lora"], "nothing is left behind half loaded"

    broken("target_parameters names nothing", target_parameters=["other"])
    broken("has rank 8, but its configuration says 6", rank_pattern={"experts.gate_up_proj": 6})
    broken("above the 1", r=1)
    broken("r is 'many'", r="many")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="4 experts of 64 × 16"):
        load_adapter(Engine(bases.small_base("mixtral")), "again", tmp_path)
