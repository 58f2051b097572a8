"""The variants of LoRA against PEFT's own: the start, every loss of a training, the weights after it, and the files."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import Linear as PeftLinear
from transformers.pytorch_utils import Conv1D

from lowregret.data.batches import batch_indices, collate
from lowregret.engine import AdamParams, Engine
from lowregret.export.peft import export_policy, load_adapter
from lowregret.lora.forms import FORMS
from lowregret.lora.init import INITIALISATIONS, orthogonal
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA

TOLERANCE = 1e-5
EVERYTHING = ("attention", "mlp", "unembedding")
INSIDE = ("attention", "mlp")
"""Without the unembedding, which PEFT changes together with the embedding when they are tied."""
STEPS, BATCH, RATE = 8, 4, 3e-3
VARIANTS: dict[str, LoRA] = {
    **{
        init: LoRA(rank=4, alpha=8, targets=INSIDE if entry.residual else EVERYTHING, init=init)  # type: ignore[arg-type]
        for init, entry in INITIALISATIONS.items()
        if entry.peft is not None
    },
    "pissa of a high rank": LoRA(rank=24, alpha=12, targets=INSIDE, init="pissa"),
    "rslora": LoRA(rank=8, alpha=8, targets=EVERYTHING, scaling="alpha/sqrt(r)"),
    "lora+": LoRA(rank=4, alpha=8, targets=EVERYTHING, b_rate=16),
    "dora": LoRA(rank=4, alpha=8, targets=EVERYTHING, dora=True),
    "dora+": LoRA(rank=4, alpha=8, targets=EVERYTHING, dora=True, b_rate=4),
    "pissa dora": LoRA(rank=4, alpha=8, targets=INSIDE, init="pissa", scaling="alpha/sqrt(r)", dora=True),
}
RESIDUAL = [entry.peft for entry in INITIALISATIONS.values() if entry.residual and entry.peft is not None]
CASES = [
    (form, variant, init)
    for form, entry in FORMS.items()
    for variant in entry.variants
    for init in entry.initialisations
]


@pytest.fixture(autouse=True)
def quietly() -> Any:
    """PEFT warns of tied embeddings."""
    with warnings.catch_warnings(action="ignore"):
        yield


def theirs(model: Any, policy: Any) -> Any:
    """PEFT's model with its own start; only what is drawn at random is taken from ours."""
    method, names = policy.method, [matrix.name for matrix in policy.matrices]
    config = peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=names,
        fan_in_fan_out=isinstance(model.get_submodule(names[0]), Conv1D),
        init_lora_weights=INITIALISATIONS[method.init].peft if method.residual else True,
        use_rslora=method.scaling == "alpha/sqrt(r)",
        use_dora=method.dora,
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(model, config).eval()
    if not method.residual:
        with torch.no_grad():
            for name, adapter in policy.adapters.items():
                module = wrapped.base_model.model.get_submodule(name)
                module.lora_A["default"].weight.copy_(adapter.a)
                module.lora_B["default"].weight.copy_(adapter.b)
    return wrapped


def epsilon(method: LoRA) -> float:
    """Adam's, the same in both.

    A residual start is found by two factorizations, which round apart by some 1e-7. Adam's step moves by
    rate · δ / (|g| + ε) when a gradient g moves by δ: with ε = 1e-8 by the whole rate where g is near zero, and whether
    such a number is among them is a matter of the processor; with 1e-4, by a thousandth of the rate at most.
    """
    return 1e-4 if method.residual else 1e-8


def their_optimizer(model: Any, method: LoRA) -> Any:
    options = {"betas": (0.9, 0.95), "eps": epsilon(method), "weight_decay": 0.0}
    if method.b_rate != 1:
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=method.b_rate, **options)
    return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=RATE, **options)


def update(module: Any, start: torch.Tensor) -> torch.Tensor:
    """What PEFT's module makes of the weight, less the weight [d_out, d_in] that it was given."""
    with torch.no_grad():
        weight = module.get_base_layer().weight
        weight = weight.T if isinstance(module.get_base_layer(), Conv1D) else weight
        delta = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
        adapted = weight + delta
        if module.lora_magnitude_vector:
            gain = module.lora_magnitude_vector["default"].weight / adapted.norm(dim=1)
            adapted = adapted * gain[:, None]
        return adapted - start


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "gpt_neox"])
def test_training_is_peft_s(bases: ModuleType, architecture: str, variant: str, record_property: Any) -> None:
    """Losses and log-probabilities of 8 steps within 1e-5, and the adapted weights at their end."""
    method = VARIANTS[variant]
    if architecture == "gpt2" and (method.init == "olora" or "unembedding" in method.targets):
        pytest.skip("PEFT's OLoRA transposes no Conv1D, and one fan_in_fan_out serves all its modules")
    base, examples = bases.small_base(architecture), bases.examples(24)
    model = bases.copied(base)
    engine = Engine(base)
    policy: Any = engine.add_policy("policy", method, seed=1)
    start = {name: engine.model.get_submodule(name).matrix.clone() for name in policy.adapters}
    wrapped = theirs(model, policy)
    optimizer = their_optimizer(wrapped, method)
    largest = 0.0
    for step in range(STEPS):
        rows = [examples[index] for index in batch_indices(len(examples), BATCH, 0, step)]
        ours = float(engine.forward_backward({"policy": collate(rows)})["policy"].loss)
        loss = bases.reference_nll(wrapped, rows)
        loss.backward()
        if step == 0:
            check_gradients(bases, wrapped, policy)
        engine.optim_step({"policy": AdamParams(RATE, eps=epsilon(method))})
        optimizer.step()
        optimizer.zero_grad()
        largest = max(largest, abs(ours - float(loss)))
    record_property("largest_difference", largest)
    assert largest < TOLERANCE
    for name, adapter in policy.adapters.items():
        ours = adapter.merged(start[name]) - start[name]
        module = wrapped.base_model.model.get_submodule(name)
        assert bases.distance(ours, update(module, start[name])) < 5e-4, name


def check_gradients(bases: ModuleType, wrapped: Any, policy: Any) -> None:
    """Of A, B and magnitudes, but for the sign of each singular pair or column, which is free."""
    for name, adapter in policy.adapters.items():
        module = wrapped.base_model.model.get_submodule(name)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        rank = a.shape[0]  # PEFT cuts a rank that a matrix does not have
        sign = (a * adapter.a[:rank]).sum(1).sign()
        sign[sign == 0] = 1
        for found, own in ((adapter.a[:rank] * sign[:, None], a), (adapter.b[:, :rank] * sign, b)):
            torch.testing.assert_close(found.detach(), own.detach(), rtol=1e-4, atol=TOLERANCE)
        pairs = [(adapter.a.grad[:rank] * sign[:, None], a.grad), (adapter.b.grad[:, :rank] * sign, b.grad)]
        if adapter.magnitude is not None:
            pairs.append((adapter.magnitude.grad, module.lora_magnitude_vector["default"].weight.grad))
        for found, own in pairs:
            torch.testing.assert_close(found, own, rtol=1e-4, atol=TOLERANCE)


def test_the_orthogonal_start_is_peft_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one state of the random numbers, to the bit."""
    original = PeftLinear.orthogonal_init

    def seeded(self: Any, adapter_name: str) -> None:
        torch.manual_seed(7)
        original(self, adapter_name)

    monkeypatch.setattr(PeftLinear, "orthogonal_init", seeded)
    module: Any = PeftLinear(
        torch.nn.Linear(12, 20), "default", config=peft.LoraConfig(init_lora_weights="orthogonal"), r=6, lora_alpha=6
    )
    a, b = orthogonal(Matrix("m", "mlp", 12, 20), 6, torch.Generator().manual_seed(7))
    torch.testing.assert_close(a, module.lora_A["default"].weight.detach(), rtol=0, atol=1e-7)
    torch.testing.assert_close(b, module.lora_B["default"].weight.detach(), rtol=0, atol=1e-7)
    assert float((b @ a).abs().max()) < 1e-6


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_an_exported_variant_is_the_same_to_peft(
    bases: ModuleType, architecture: str, variant: str, tmp_path: Path
) -> None:
    """Loaded on the plain base: PiSSA and OLoRA are then plain LoRAs."""
    method = VARIANTS[variant]
    if architecture == "gpt2" and "unembedding" in method.targets and method.dora:
        pytest.skip("one fan_in_fan_out serves all of PEFT's modules, and DoRA's norm goes by it")
    base, rows = bases.small_base(architecture), bases.examples(8)
    model = bases.copied(base)
    engine = Engine(base)
    engine.add_policy("policy", method, seed=1)
    for _ in range(3):
        engine.forward_backward({"policy": collate(rows)})
        engine.optim_step({"policy": AdamParams(RATE)})
    export_policy(engine, "policy", tmp_path / "adapter")
    ours = float(engine.forward({"policy": collate(rows)})["policy"].loss)
    wrapped = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    assert bases.reference_nll(wrapped, rows).item() == pytest.approx(ours, abs=TOLERANCE)


@pytest.mark.parametrize(("form", "variant", "init"), CASES)
def test_every_form_that_is_saved_is_the_same_to_peft(
    bases: ModuleType, form: str, variant: str, init: str, tmp_path: Path
) -> None:
    """Each form alone, on every small base that has a place for it.

    But DoRA on dense bases only: of mixtures, PEFT makes parameters of modules that are named like experts, and has no
    DoRA on parameters.
    """
    rows, dora = bases.examples(8), "dora" in FORMS[form].variants[variant]
    for architecture in bases.homes(form):
        if dora and architecture in bases.MIXTURES:
            continue
        base = bases.small_base(architecture)
        model = bases.copied(base)
        engine = Engine(base)
        engine.add_policy("policy", bases.method_on(engine, form, variant, init), seed=1)
        before = float(engine.forward({"policy": collate(rows)})["policy"].loss)
        for _ in range(3):
            engine.forward_backward({"policy": collate(rows)})
            engine.optim_step({"policy": AdamParams(2e-2)})
        export_policy(engine, "policy", tmp_path / architecture)
        ours = float(engine.forward({"policy": collate(rows)})["policy"].loss)
        assert abs(ours - before) > 10 * TOLERANCE, f"{architecture}: the adapter does nothing"
        wrapped = peft.PeftModel.from_pretrained(model, str(tmp_path / architecture)).eval()
        assert bases.reference_nll(wrapped, rows).item() == pytest.approx(ours, abs=TOLERANCE), architecture


@pytest.mark.parametrize("init", RESIDUAL)
@pytest.mark.parametrize("converted", [True, False])
def test_a_residual_start_that_peft_saved_is_the_same_here(
    bases: ModuleType, init: str, converted: bool, tmp_path: Path
) -> None:
    """Converted by PEFT into a plain LoRA, or as it is: then the base's part is found again."""
    base, rows = bases.small_base("llama"), bases.examples(8)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=init)
    wrapped = peft.get_peft_model(bases.copied(base), config)
    if converted:
        wrapped.peft_config["default"].init_lora_weights = True
        wrapped.save_pretrained(tmp_path / "start")
        wrapped.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    options = {"path_initial_model_for_weight_conversion": str(tmp_path / "start")} if converted else {}
    expected = bases.reference_nll(wrapped.eval(), rows).item()
    wrapped.save_pretrained(tmp_path / "adapter", **options)
    engine = Engine(bases.small_base("llama"))
    policy = load_adapter(engine, "again", tmp_path / "adapter")
    assert policy.method.init == ("uniform" if converted else init)
    assert float(engine.forward({"again": collate(rows)})["again"].loss) == pytest.approx(expected, abs=TOLERANCE)


def test_a_dora_that_peft_trained_is_the_same_here(bases: ModuleType, tmp_path: Path) -> None:
    base, rows = bases.small_base("phi3"), bases.examples(8)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True, use_rslora=True)
    wrapped = peft.get_peft_model(bases.copied(base), config).eval()
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    wrapped.save_pretrained(tmp_path / "adapter")
    engine = Engine(bases.small_base("phi3"))
    policy = load_adapter(engine, "again", tmp_path / "adapter")
    assert policy.method.dora
    expected = bases.reference_nll(wrapped, rows).item()
    assert float(engine.forward({"again": collate(rows)})["again"].loss) == pytest.approx(expected, abs=TOLERANCE)
