"""What every initialisation and every form of adapter must hold: laws over `INITIALISATIONS` and `FORMS`.

An entry is tested the day it is added: each initialisation on each form and variant that builds it, and each of those
on every small base that has a place for it.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.errors import SpecError, TargetError
from lowregret.export.merge import merge
from lowregret.export.peft import export_policy, load_adapter
from lowregret.lora.forms import FORMS
from lowregret.lora.init import INITIALISATIONS
from lowregret.spec import LoRA, build
from lowregret.spec.conventions import CONVENTIONS
from lowregret.spec.method import Init, Method

RATE = 2e-2
CASES = [
    (form, variant, init)
    for form, entry in FORMS.items()
    for variant in entry.variants
    for init in entry.initialisations
]
cases = pytest.mark.parametrize(("form", "variant", "init"), CASES)


def parse(spelled: str) -> Any:
    """A method as the command line gives it."""
    return TypeAdapter(Method).validate_python(spelled)


def train(bases: ModuleType, engine: Engine, names: list[str], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        batches = {name: collate(bases.examples(2 + len(name) % 3, 100 * step + len(name))) for name in names}
        engine.forward_backward(batches)
        engine.optim_step({name: AdamParams(RATE) for name in names})


def prepared(bases: ModuleType, architecture: str, form: str, variant: str, init: str) -> Engine:
    """A base with one policy, `lora`, which takes this form alone."""
    engine = Engine(bases.small_base(architecture))
    engine.add_policy("lora", bases.method_on(engine, form, variant, init), seed=3)
    return engine


@cases
def test_at_its_start_the_adapted_base_is_the_base(bases: ModuleType, form: str, variant: str, init: str) -> None:
    """To the bit; to rounding where an initialisation says so."""
    batch, exact = collate(bases.examples(5)), INITIALISATIONS[init].exact
    for architecture in bases.homes(form):
        engine = prepared(bases, architecture, form, variant, init)
        bare = engine.forward({"base": batch})["base"].logprobs
        for started in (engine.forward({"lora": batch}), engine.forward_backward({"lora": batch})):
            found = started["lora"].logprobs
            assert torch.equal(found, bare) if exact else bases.distance(found, bare) < 1e-5, architecture


@cases
def test_merged_equals_unmerged(bases: ModuleType, form: str, variant: str, init: str) -> None:
    batch = collate(bases.examples(5))
    for architecture in bases.homes(form):
        engine = prepared(bases, architecture, form, variant, init)
        before = engine.forward({"base": batch})["base"].logprobs
        train(bases, engine, ["lora"], 4)
        beside = engine.forward({"lora": batch})["lora"].logprobs
        assert bases.distance(beside, before) > 1e-3, f"{architecture}: the adapter does nothing"
        merge(engine, "lora")
        assert bases.distance(engine.forward({"base": batch})["base"].logprobs, beside) < 1e-5, architecture


@cases
def test_saved_equals_loaded(bases: ModuleType, form: str, variant: str, init: str, tmp_path: Path) -> None:
    """In PEFT's format; a residual start as the plain LoRA of twice the rank that it amounts to."""
    batch, residual = collate(bases.examples(5)), INITIALISATIONS[init].residual
    for architecture in bases.homes(form):
        engine = prepared(bases, architecture, form, variant, init)
        train(bases, engine, ["lora"], 2)
        export_policy(engine, "lora", tmp_path / architecture)
        fresh = Engine(bases.small_base(architecture))
        again, policy = load_adapter(fresh, "again", tmp_path / architecture), engine.policies["lora"]
        assert isinstance(policy.method, LoRA)
        assert again.method.rank == policy.method.rank * (2 if residual else 1)
        assert again.method.scale == pytest.approx(policy.method.scale, rel=1e-12)
        for field, value in FORMS[form].variants[variant].items():
            assert getattr(again.method, field) == value
        found, saved = fresh.forward({"again": batch})["again"], engine.forward({"lora": batch})["lora"]
        assert bases.distance(found.logprobs, saved.logprobs) < 1e-6, architecture


@cases
def test_resumed_equals_uninterrupted(bases: ModuleType, form: str, variant: str, init: str, tmp_path: Path) -> None:
    """To the bit, and though a start in the base was found with other rounding this time."""
    for architecture in {bases.homes(form)[0], bases.homes(form)[-1]}:
        whole, resumed = (prepared(bases, architecture, form, variant, init) for _ in range(2))
        train(bases, whole, ["lora"], 3)
        whole.save("lora", tmp_path / "state.safetensors")
        policy: Any = resumed.policies["lora"]
        if policy.bank.initial is not None:
            policy.bank.initial.mul_(1 + 1e-6)
        resumed.load("lora", tmp_path / "state.safetensors")
        for engine in (whole, resumed):
            train(bases, engine, ["lora"], 2, first=3)
        assert bases.same(bases.weights(resumed.policies["lora"]), bases.weights(whole.policies["lora"])), architecture


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_oss"])
def test_packed_equals_alone(bases: ModuleType, architecture: str) -> None:
    """Every form, variant and initialisation that the base has a place for, all in one pass."""
    pack = Engine(bases.double_base(architecture))
    methods = {
        f"{form}/{variant}/{init}": bases.method_on(pack, form, variant, init)
        for form, variant, init in CASES
        if architecture in bases.homes(form)
    }
    for name, method in methods.items():
        pack.add_policy(name, method, seed=len(name))
    train(bases, pack, list(methods), 3)
    for name, method in methods.items():
        alone = Engine(bases.double_base(architecture))
        policy = alone.add_policy(name, method, seed=len(name))
        start = bases.weights(policy)
        train(bases, alone, [name], 3)
        packed = bases.weights(pack.policies[name])
        assert not bases.same(start, packed), f"{name} was not trained"
        for key, weight in policy.weights.items():
            assert bases.distance(packed[key], weight) < 1e-6, f"{name} {key}"


def test_every_form_has_a_place_on_a_small_base_and_no_two_have_the_same(bases: ModuleType) -> None:
    assert all(bases.homes(form) for form in FORMS)
    for architecture in (*bases.DENSE, *bases.MIXTURES):
        engine = Engine(bases.small_base(architecture))
        placed = [name for form in FORMS for name in bases.placed(engine, form)]
        assert sorted(placed) == sorted(matrix.name for matrix in engine.matrices)


def test_every_variant_of_a_form_is_a_method_of_its_own() -> None:
    """Of experts, those are the conventions; of DoRA, no form is forgotten that could have it."""
    assert set(FORMS["experts"].variants) == set(CONVENTIONS)
    for form in FORMS.values():
        methods = [LoRA(rank=4, **fields) for fields in form.variants.values()]
        assert all(methods.count(method) == 1 for method in methods)


def test_what_a_form_does_not_build_is_refused_by_name(bases: ModuleType) -> None:
    for name, form in FORMS.items():
        architecture = bases.homes(name)[0]
        asked: list[dict[str, Any]] = [{"init": init} for init in INITIALISATIONS if init not in form.initialisations]
        asked += [] if form.dropout else [{"dropout": 0.1}]
        asked += [] if "dora" in form.variants else [{"dora": True}]
        for fields in asked:
            engine = Engine(bases.small_base(architecture))
            (matrix, *_) = bases.placed(engine, name)
            method = LoRA(rank=4, targets=(f"re:^{matrix}$",), **fields)
            with pytest.raises(TargetError, match=f"{matrix}: on .* is not built. Leave it out"):
                engine.add_policy("lora", method)


def test_dropout_of_a_form_that_builds_it_leaves_the_start_as_it_is(bases: ModuleType) -> None:
    """What is dropped is the update, and there is none yet."""
    batch = collate(bases.examples(5))
    for form, variant, init in CASES:
        if FORMS[form].dropout and INITIALISATIONS[init].exact:
            engine = Engine(bases.small_base(bases.homes(form)[0]))
            bare = engine.forward({"base": batch})["base"].logprobs
            engine.add_policy("lora", bases.method_on(engine, form, variant, init, dropout=0.3))
            found = engine.forward_backward({"lora": batch})["lora"].logprobs
            assert torch.equal(found, bare), (form, variant, init)


def test_the_spec_and_the_registry_have_the_same_initialisations() -> None:
    """The spec is free of torch and so has names and facts of its own."""
    assert get_args(Init) == tuple(INITIALISATIONS)
    assert LoRA(rank=4).init == next(iter(INITIALISATIONS))
    for init, entry in INITIALISATIONS.items():
        assert LoRA(rank=4, init=init).residual is entry.residual  # type: ignore[arg-type]
        for fields, built in (({"rank": 3}, not entry.even_rank), ({"rank": 4, "init_scale": 2.0}, entry.scaled)):
            if built:
                assert build(LoRA, {"init": init, **fields})
            else:
                with pytest.raises(SpecError, match=init):
                    build(LoRA, {"init": init, **fields})
        assert entry.source


def test_every_initialisation_and_variant_is_spelled_on_the_command_line() -> None:
    default = LoRA(rank=16)
    asked: dict[str, dict[str, Any]] = {init: {"init": init} for init in INITIALISATIONS}
    asked |= {variant: dict(fields) for form in FORMS.values() for variant, fields in form.variants.items()}
    for word, fields in asked.items():
        method = LoRA(rank=16, **fields)
        assert parse("lora:16" if method == default else f"lora:16:{word}") == method
        assert parse(method.name) == method
