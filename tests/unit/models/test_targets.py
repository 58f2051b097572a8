"""Names → matrices on every layout of a decoder, and errors that list what there is."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import torch
from torch import nn

from lowregret.engine import Engine
from lowregret.errors import TargetError
from lowregret.models.experts import Experts
from lowregret.models.targets import find_targets, matrices
from lowregret.spec import LoRA

# For one layer: {name inside the layer: (d_in, d_out)}; hidden 16, intermediate 32, heads of 8.
ATTENTION = {"self_attn.q_proj": (16, 16), "self_attn.k_proj": (16, 8), "self_attn.v_proj": (16, 8)}
GATED = {"mlp.gate_proj": (16, 32), "mlp.up_proj": (16, 32), "mlp.down_proj": (32, 16)}
LAYERS = {
    "llama": ("model.layers", {**ATTENTION, "self_attn.o_proj": (16, 16)}, GATED),
    "qwen3": ("model.layers", {**ATTENTION, "self_attn.o_proj": (16, 16)}, GATED),
    "gemma2": ("model.layers", {**ATTENTION, "self_attn.o_proj": (16, 16)}, GATED),
    "gpt2": (
        "transformer.h",
        {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16)},
        {"mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16)},
    ),
    "phi3": (
        "model.layers",
        {"self_attn.qkv_proj": (16, 32), "self_attn.o_proj": (16, 16)},
        {"mlp.gate_up_proj": (16, 64), "mlp.down_proj": (32, 16)},
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        {"attention.query_key_value": (16, 48), "attention.dense": (16, 16)},
        {"mlp.dense_h_to_4h": (16, 32), "mlp.dense_4h_to_h": (32, 16)},
    ),
    "opt": (
        "model.decoder.layers",
        {f"self_attn.{name}_proj": (16, 16) for name in ("q", "k", "v", "out")},
        {"fc1": (16, 32), "fc2": (32, 16)},
    ),
}


def expected(architecture: str) -> dict[str, dict[str, tuple[int, int]]]:
    prefix, attention, mlp = LAYERS[architecture]
    both = {"attention": attention, "mlp": mlp}
    groups = {
        group: {f"{prefix}.{layer}.{name}": shape for layer in (0, 1) for name, shape in inside.items()}
        for group, inside in both.items()
    }
    return {**groups, "unembedding": {"lm_head": (16, 64)}}


@pytest.mark.parametrize("targets", [("attention",), ("mlp",), ("unembedding",), ("attention", "mlp")], ids="+".join)
def test_groups_are_every_matrix_of_their_kind_and_no_other(
    bases: ModuleType, architecture: str, targets: tuple[str, ...]
) -> None:
    model = bases.small_model(architecture)
    found = {matrix.name: (matrix.d_in, matrix.d_out) for matrix in find_targets(model, matrices(model), targets)}
    groups = expected(architecture)
    assert found == {name: shape for target in targets for name, shape in groups[target].items()}


def test_nothing_of_the_base_is_left_out(bases: ModuleType, architecture: str) -> None:
    """Every tensor of two dimensions is a known matrix or an embedding; the matrices are in the model's own order."""
    model = bases.small_model(architecture)
    known = {matrix.name for matrix in matrices(model)}
    others = {name.removesuffix(".weight") for name, p in model.named_parameters() if p.ndim == 2} - known
    assert all(re.search(r"embed|wte|wpe", name) for name in others), others


def test_a_regex_selects_by_name(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    found = find_targets(model, matrices(model), (r"re:layers\.1\..*(q|v)_proj$",))
    assert [matrix.name for matrix in found] == [f"model.layers.1.self_attn.{name}_proj" for name in ("q", "v")]


def test_a_regex_that_matches_nothing_lists_what_there_is(bases: ModuleType, architecture: str) -> None:
    model = bases.small_model(architecture)
    with pytest.raises(TargetError, match="matches no weight matrix") as error:
        find_targets(model, matrices(model), ("re:query",) if architecture != "gpt_neox" else ("re:q_proj",))
    prefix, attention, mlp = LAYERS[architecture]
    for name in (*attention, *mlp):
        assert f"{prefix}.*.{name}" in str(error.value)
    assert "lm_head" in str(error.value)


def test_a_group_that_the_base_has_not_is_refused(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    known = [matrix for matrix in matrices(model) if matrix.group != "mlp"]
    with pytest.raises(TargetError, match=r"no 'mlp' matrix to adapt. It has: attention, unembedding"):
        find_targets(model, known, ("attention", "mlp"))


MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]


@pytest.mark.parametrize("architecture", MIXTURES)
def test_the_mlp_takes_experts_along_and_leaves_routers_out(bases: ModuleType, architecture: str) -> None:
    model = bases.small_model(architecture)
    known = matrices(model)
    groups = {group: [m for m in known if m.group == group] for group in ("mlp", "experts", "router")}
    assert set(find_targets(model, known, ("mlp",))) == {*groups["mlp"], *groups["experts"]}
    assert find_targets(model, known, ("experts",)) == groups["experts"]
    layers = 1 if architecture == "deepseek_v3" else 2  # the first of DeepSeek's is dense
    assert [m.name.rpartition(".")[2] for m in groups["experts"]] == ["gate_proj", "up_proj", "down_proj"] * layers
    assert len(find_targets(model, known, ("router",))) == layers
    shared = {"qwen2_moe": 3 * layers, "deepseek_v3": 3 * layers + 3}
    assert len(groups["mlp"]) == shared.get(architecture, 0), "shared experts, and dense layers, are plain MLPs"


@pytest.mark.parametrize("architecture", MIXTURES)
def test_what_experts_are_is_read_off_the_base(bases: ModuleType, architecture: str) -> None:
    model = bases.small_model(architecture)
    for matrix in find_targets(model, matrices(model), ("experts",)):
        width = 32 if architecture in ("mixtral", "olmoe", "gpt_oss") else 16
        inward = not matrix.name.endswith("down_proj")
        assert (matrix.d_in, matrix.d_out) == ((16, width) if inward else (width, 16))
        assert matrix.experts == Experts(count=4, active=2, hidden="in" if inward else "out")


def test_experts_in_a_layout_of_their_own_are_refused_and_named(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    model.model.layers[0].mlp.experts = nn.ParameterDict({"gate_up": nn.Parameter(torch.zeros(2, 16, 32))})
    with pytest.raises(TargetError, match=r"layout of its own \(model\.layers\.0\.mlp\.experts.*`attention`"):
        find_targets(model, matrices(model), ("attention", "mlp"))


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_beside_experts_attention_is_there_and_routers_are_not(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    policy = engine.add_policy("lora", LoRA(rank=2, targets=("attention", "unembedding")))
    names = {name.rpartition(".")[0].rpartition(".")[2] for name in policy.weights}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}


def test_an_adapted_base_still_names_its_matrices_as_before(bases: ModuleType, architecture: str) -> None:
    """A second policy finds what the first found, though the modules are wrapped by then."""
    engine = Engine(bases.small_base(architecture))
    first = engine.add_policy("first", LoRA(rank=2, targets=("attention", "mlp", "unembedding")))
    second = engine.add_policy("second", LoRA(rank=3, targets=("attention", "mlp", "unembedding")))
    assert list(first.weights) == list(second.weights)
