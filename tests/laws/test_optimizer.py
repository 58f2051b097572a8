"""What holds for every optimizer in the registry: its formula in float64, its state, its bytes, and its neighbours."""

from __future__ import annotations

import gc
import math
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowregret.data.batches import collate
from lowregret.engine import Engine, StepParams, step_params
from lowregret.engine.optim.optimizer import by_name
from lowregret.engine.optim.registry import OPTIMIZERS
from lowregret.engine.parallel.mesh import Axis
from lowregret.engine.parallel.slices import StateSlices
from lowregret.engine.policy import Policy
from lowregret.engine.state import restore_state, state_tensors
from lowregret.errors import RecordsError, SpecError
from lowregret.lora.bank import AdapterBank, AdapterLayout
from lowregret.models.targets import Matrix
from lowregret.spec import FullFT, LoRA
from lowregret.spec import optimizer as specs
from optimizer_formulas import FORMULAS, after

SHAPES = {"a": (5, 3), "b": (4,)}
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)
every_wide_optimizer = pytest.mark.parametrize(
    "kind", [k for k, found in specs.OPTIMIZERS.items() if found.WEIGHTS == "float32"]
)


def dtype_of(kind: str) -> torch.dtype:
    """Of the matrices that it steps."""
    found: torch.dtype = getattr(torch, specs.OPTIMIZERS[kind].WEIGHTS)
    return found


def parameters(kind: str, start: dict[str, Any]) -> dict[str, nn.Parameter]:
    return {
        name: nn.Parameter(torch.as_tensor(value).clone().to(dtype_of(kind) if value.ndim >= 2 else torch.float32))
        for name, value in start.items()
    }


@every_optimizer
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_ten_steps_equal_the_formula(kind: str, clip_norm: float | None, weight_decay: float) -> None:
    """The rate changes from step to step, and some gradients lie under the clip norm."""
    assert kind in FORMULAS, f"{kind} has no reference in float64: write its formula beside the others"
    formula, options = FORMULAS[kind], FORMULAS[kind].options
    decays = "weight_decay" in {field.name for field in fields(OPTIMIZERS[kind].params)}
    options = {**options, **({"weight_decay": weight_decay} if decays else {})}
    draw = np.random.default_rng(0)
    start = {name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    sizes = [1.0, 0.01, 1.0, 0.01, 3.0, 1.0, 1.0, 0.1, 1.0, 1.0]
    gradients = [
        {name: (size * draw.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()} for size in sizes
    ]
    steps = [params_of(kind, 0.05 / (1 + step), clip_norm=clip_norm, **options) for step in range(10)]
    expected, norms = after(formula.move, start, gradients, steps, dtype_of(kind))
    if clip_norm is not None:
        assert min(norms) < clip_norm < max(norms)

    weights = parameters(kind, start)
    optimizer = OPTIMIZERS[kind](by_name(weights), gradients_stay=False)
    reported = []
    for gradient, params in zip(gradients, steps, strict=True):
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradient[name].copy()).to(weight.dtype)
        reported.append(float(optimizer.step(params)))
        assert all(weight.grad is None for weight in weights.values()), "a step must clear the gradients"
    assert reported == pytest.approx(norms, rel=1e-6)
    for name, weight in weights.items():
        found = weight.detach().float().numpy()
        np.testing.assert_allclose(found, expected[name], rtol=formula.rtol, atol=formula.atol)


def params_of(kind: str, learning_rate: float, **options: Any) -> StepParams:
    return OPTIMIZERS[kind].params(learning_rate, **options)


@every_optimizer
def test_a_weight_without_gradient_is_left_alone(kind: str) -> None:
    """Even where weights decay."""
    weights = parameters(kind, {name: torch.ones(shape) for name, shape in SHAPES.items()})
    optimizer = OPTIMIZERS[kind](by_name(weights), gradients_stay=False)
    weights["a"].grad = torch.ones_like(weights["a"])
    decay = {"weight_decay": 0.5}
    assert float(optimizer.step(params_of(kind, 0.1, **decay))) == pytest.approx(15**0.5)
    assert bool((weights["b"] == 1).all())
    assert not bool((weights["a"] == 1).all())


@every_optimizer
@pytest.mark.parametrize("count", [2, 3])
def test_slices_move_as_the_whole_where_each_number_is_stepped_by_itself(kind: str, count: int) -> None:
    """To the bit: what ranks rely on that keep a part of an adapter's state each."""
    spec = OPTIMIZERS[kind].spec
    assert spec.slices(2**40, count) == (count if spec.ELEMENTWISE else 1)
    assert spec.slices(100, count) == 1
    if not spec.ELEMENTWISE:
        return
    drawn = torch.randn(4, 1001, generator=torch.Generator().manual_seed(0))
    matrix = Matrix("m", "mlp", 91, 91)
    bank = AdapterBank(AdapterLayout((matrix,), 4, dora=True))
    ends = [StateSlices(Axis(rank, count), bank.slices, LoRA(rank=4)).own for rank in range(count)]
    assert (ends[0].start, ends[-1].stop) == (0, bank.slices[-1].place.stop)
    assert all(one.stop == other.start for one, other in pairwise(ends))
    found = []
    for places in ([slice(0, ends[-1].stop)], ends):
        weights = {str(place): nn.Parameter(drawn[0, place].clone()) for place in places}
        stepped = OPTIMIZERS[kind](by_name(weights), gradients_stay=False)
        for gradient in drawn[1:]:
            for place, weight in zip(places, weights.values(), strict=True):
                weight.grad = gradient[place].clone()
            stepped.step(params_of(kind, 0.1))
        found.append(torch.cat([one.detach() for one in weights.values()]))
    assert torch.equal(*found)


# --- the two registries ----------------------------------------------------------------------------------------------


def test_a_spec_and_an_optimizer_are_a_pair() -> None:
    assert OPTIMIZERS.keys() == specs.OPTIMIZERS.keys()
    for kind, optimizer in OPTIMIZERS.items():
        assert optimizer.spec is specs.OPTIMIZERS[kind]
        assert optimizer.spec().name == kind
    assert len({optimizer.prefix for optimizer in OPTIMIZERS.values()}) == len(OPTIMIZERS)


@every_optimizer
def test_every_hyper_parameter_of_the_spec_reaches_the_step(kind: str) -> None:
    """But for the shape of the rate, which is the trainer's."""
    spec, params = OPTIMIZERS[kind].spec, OPTIMIZERS[kind].params
    schedule = {"kind", "schedule", "warmup_steps", "decay_fraction"}
    own = {field.name for field in fields(params)} - {"learning_rate"}
    assert own == spec.model_fields.keys() - schedule
    defaults = spec()
    assert specs.stepped_by(kind, specs.AdamW(weight_decay=0.5)).weight_decay == 0.5
    assert step_params(defaults, 0.5) == params(0.5, **{name: getattr(defaults, name) for name in own})
    assert step_params(spec(clip_norm=0.25), 0.5).clip_norm == 0.25


@every_optimizer
def test_another_kinds_parameters_are_refused(kind: str) -> None:
    weights = {"a": nn.Parameter(torch.ones(3))}
    with pytest.raises(TypeError, match=OPTIMIZERS[kind].params.__name__):
        OPTIMIZERS[kind](by_name(weights), gradients_stay=False).step(StepParams(0.1))


def test_an_unknown_kind_is_refused_by_name(bases: ModuleType) -> None:
    with pytest.raises(SpecError, match=r"unknown optimizer 'adamv'. Did you mean 'adamw'"):
        Engine(bases.small_base("llama")).add_policy("a", LoRA(rank=1), optimizer="adamv")


# --- state -----------------------------------------------------------------------------------------------------------

METHODS: dict[str, LoRA | FullFT] = {
    "lora": LoRA(rank=3),
    "lora+": LoRA(rank=2, b_rate=16),
    "dora": LoRA(rank=2, dora=True),
    "full": FullFT(),
}
every_pair = pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, name) for kind in OPTIMIZERS for name in METHODS if name == "full" or dtype_of(kind) is torch.float32],
)


def trained(bases: ModuleType, kind: str, method: str, path: Path | None = None, resumed: bool = False) -> Policy:
    """Six steps with rates and norms that differ; saved after three, or started from there in a fresh engine."""
    engine = Engine(bases.small_base("llama"), precision=str(dtype_of(kind)).removeprefix("torch."))
    policy = engine.add_policy("a", METHODS[method], seed=1, optimizer=kind)
    if resumed:
        assert path is not None
        engine.load("a", path)
    for step in range(3 if resumed else 0, 6):
        engine.forward_backward({"a": collate(bases.examples(3, seed=step))})
        engine.optim_step({"a": params_of(kind, 1e-3 * (step + 1), clip_norm=0.5 if step % 2 else None)})
        if step == 2 and path is not None and not resumed:
            engine.save("a", path)
    return policy


@every_pair
def test_resumed_equals_uninterrupted_to_the_bit(bases: ModuleType, tmp_path: Path, kind: str, method: str) -> None:
    """So all that one step hands to the next is in what is saved."""
    whole = trained(bases, kind, method, tmp_path / "state.safetensors")
    resumed = trained(bases, kind, method, tmp_path / "state.safetensors", resumed=True)
    assert bases.same(bases.weights(resumed), bases.weights(whole))
    assert bases.same(resumed.optimizer.state(), whole.optimizer.state())
    assert resumed.steps == whole.steps == 6


@every_pair
def test_the_state_is_the_one_declared(bases: ModuleType, kind: str, method: str) -> None:
    policy = trained(bases, kind, method)
    declared = {
        f"{name}/{weight}": found
        for weight, value in policy.weights.items()
        for name, found in policy.optimizer.declared(weight, tuple(value.shape)).items()
    }
    state = policy.optimizer.state()
    assert {name: (tuple(value.shape), value.dtype) for name, value in state.items()} == declared
    narrow = {value.dtype for value in policy.weights.values() if value.ndim >= 2}
    assert narrow == {dtype_of(kind)}


def tensors() -> dict[int, int]:
    """{address: bytes} of the memory of all tensors that there are."""
    gc.collect()
    alive = [found for found in gc.get_objects() if issubclass(type(found), Tensor) and found.device.type == "cpu"]
    storages = [found.untyped_storage() for found in alive if found.layout is torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


@every_optimizer
def test_the_declared_bytes_are_those_held(kind: str) -> None:
    """Weights, gradients and whatever else appeared with them, wherever it is kept; a third lies outside the layers."""
    shapes = {"a": (300, 256), "b": (200, 512), "c": (100, 300), "d": (590, 100)}
    numbers = sum(math.prod(shape) for shape in shapes.values())
    inside = 1 - math.prod(shapes["d"]) / numbers
    OPTIMIZERS[kind](by_name(parameters(kind, {"a": torch.ones(2, 2)})), gradients_stay=True)  # tables for all, once
    warm = parameters(kind, {"a": torch.ones(2, 2)})
    warm["a"].grad = torch.ones_like(warm["a"])
    OPTIMIZERS[kind](by_name(warm), gradients_stay=True).step(params_of(kind, 0.1))
    before = tensors()
    weights = parameters(kind, {name: torch.randn(shape) for name, shape in shapes.items()})
    optimizer = OPTIMIZERS[kind](by_name(weights), gradients_stay=True, outside=["d"])
    for _ in range(2):
        gradients = {name: torch.randn(weight.shape).to(weight.dtype) for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimizer.step(params_of(kind, 0.1))
    held = sum(size for place, size in tensors().items() if place not in before)
    rows_and_columns = 4 * sum(sum(shape) for shape in shapes.values()) if kind == "adafactor" else 0
    scalars = 64 * len(weights) * len(optimizer.spec.STATE)
    assert 0 <= held - numbers * optimizer.spec.bytes_per_parameter(inside) <= scalars + rows_and_columns


def test_the_state_of_another_optimizer_is_refused(bases: ModuleType, tmp_path: Path) -> None:
    policy = trained(bases, "adamw", "lora")
    tensors = {key.replace("adam/", "other/"): value.clone() for key, value in state_tensors(policy).items()}
    before = bases.weights(policy)
    with pytest.raises(RecordsError, match=r"other/exp_avg.*no state of this policy's optimizer"):
        restore_state(policy, tensors, tmp_path / "file")
    assert bases.same(bases.weights(policy), before)


# --- company ---------------------------------------------------------------------------------------------------------

COMPANY = {"a": LoRA(rank=3), "b": LoRA(rank=3, alpha=8), "c": LoRA(rank=5, targets=("mlp",))}


def company(bases: ModuleType, kind: str, names: list[str]) -> Engine:
    engine = Engine(bases.small_base("llama"))
    for name in names:
        engine.add_policy(name, COMPANY[name], seed=ord(name), optimizer=kind)
    return engine


def give_gradients(engine: Engine, step: int, value: dict[str, float] | None = None) -> None:
    """Each policy's own, whoever else is there; so only the optimizer is compared."""
    for name, policy in engine.policies.items():
        policy.before_backward()
        draw = torch.Generator().manual_seed(100 * step + ord(name))
        for weight in policy.weights.values():
            assert weight.grad is not None
            weight.grad.copy_(torch.randn(weight.shape, generator=draw) * (value or {}).get(name, 1.0))


def steps(kind: str, engine: Engine, count: int = 4, value: dict[str, float] | None = None) -> None:
    for step in range(count):
        give_gradients(engine, step, value)
        rates = {name: params_of(kind, 1e-3 * ord(name), clip_norm=1.0) for name in engine.policies}
        engine.optim_step(rates)


def same_policy(bases: ModuleType, one: Policy, other: Policy) -> bool:
    return bool(
        bases.same(bases.weights(one), bases.weights(other))
        and bases.same(one.optimizer.state(), other.optimizer.state())
    )


@every_wide_optimizer
def test_policies_stepped_together_equal_each_alone_to_the_bit(bases: ModuleType, kind: str) -> None:
    together = company(bases, kind, list(COMPANY))
    steps(kind, together)
    for name in COMPANY:
        alone = company(bases, kind, [name])
        start = bases.weights(alone.policies[name])
        steps(kind, alone)
        assert not bases.same(bases.weights(alone.policies[name]), start)
        assert same_policy(bases, together.policies[name], alone.policies[name])


@every_wide_optimizer
def test_a_policy_that_is_not_named_is_not_touched(bases: ModuleType, kind: str) -> None:
    """Neither its weights nor its state nor the gradients that wait for its own step."""
    engine = company(bases, kind, list(COMPANY))
    steps(kind, engine, 2)
    give_gradients(engine, 7)
    found = {
        name: {
            **bases.weights(policy),
            **{key: value.clone() for key, value in policy.optimizer.state().items()},
            **{f"grad/{key}": weight.grad.clone() for key, weight in policy.weights.items()},
        }
        for name, policy in engine.policies.items()
    }
    engine.optim_step({"b": params_of(kind, 1e-2)})
    for name in ("a", "c"):
        policy = engine.policies[name]
        now = {
            **bases.weights(policy),
            **policy.optimizer.state(),
            **{f"grad/{key}": weight.grad for key, weight in policy.weights.items()},
        }
        assert bases.same(now, found[name])
    moved = bases.weights(engine.policies["b"])
    assert not bases.same(moved, {key: found["b"][key] for key in moved})


@every_wide_optimizer
def test_gradients_that_are_no_numbers_stay_with_their_policy(bases: ModuleType, kind: str) -> None:
    healthy, sick = (company(bases, kind, list(COMPANY)) for _ in range(2))
    steps(kind, healthy)
    steps(kind, sick, value={"b": math.nan})
    assert all(bool(weight.isnan().all()) for weight in sick.policies["b"].weights.values())
    for name in ("a", "c"):
        assert same_policy(bases, sick.policies[name], healthy.policies[name])
