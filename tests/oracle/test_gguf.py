"""A base from a .gguf file computes what the same weights do in transformers, or is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from lowregret.errors import ModelError
from lowregret.models.load import load_base, load_config, resolve
from lowregret.plan.shapes.lookup import find_model

TOKENS = torch.arange(300).reshape(2, 150) * 7 % 1000


@pytest.fixture(scope="module")
def files(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).parents[1] / "gguf_files.py")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


def agrees(path: Path, made: Any) -> Any:
    loaded = load_base(resolve(str(path))).model
    torch.testing.assert_close(logits(loaded), logits(made), rtol=1e-4, atol=1e-5)
    return loaded


def llama3_factors(theta: float, width: int, factor: float, original: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter computes them (`generate_extra_tensors` of Llama)."""
    found = []
    for length in 2 * math.pi * theta ** (np.arange(0, width, 2) / width):
        if length < original / 4:
            found.append(1.0)
        elif length > original:
            found.append(factor)
        else:
            smooth = (original / length - 1) / 3
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


# --- rotary scaling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "original", "theta"), [(8.0, 64, 1e4), (32.0, 50, 5e5)])
def test_the_factors_of_llama_3_are_its_scaling(
    files: ModuleType, factor: float, original: int, theta: float, tmp_path: Path
) -> None:
    rope = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original, "rope_theta": theta,
    }  # fmt: skip
    made = files.model("Llama", rope_parameters=rope)
    plain = files.model("Llama", rope_parameters={"rope_type": "default", "rope_theta": theta})
    stored = files.tensors(made, "llama") | {"rope_freqs.weight": llama3_factors(theta, 16, factor, original)}
    loaded = agrees(files.write(tmp_path / "a.gguf", "llama", stored, files.fields(made)), made)
    assert {key: loaded.config.rope_parameters[key] for key in rope} == rope
    assert not torch.allclose(logits(plain), logits(made), rtol=1e-4, atol=1e-5), "the scaling does nothing"


def test_other_factors_are_taken_as_they_are_and_survive_a_save(files: ModuleType, tmp_path: Path) -> None:
    factors = [1.0, 1.5, 1.2, 2.0, 7.0, 3.0, 9.0, 11.0]
    rope = {
        "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
        "original_max_position_embeddings": 512, "rope_theta": 1e4, "factor": 1.0,
    }  # fmt: skip
    made = files.model("Llama", rope_parameters=rope)
    stored = files.tensors(made, "llama") | {"rope_freqs.weight": np.array(factors)}
    loaded = agrees(files.write(tmp_path / "a.gguf", "llama", stored, files.fields(made)), made)
    loaded.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(type(loaded).from_pretrained(tmp_path / "saved").eval()), logits(made))


@pytest.mark.parametrize(
    ("kind", "architecture", "rope", "said"),
    [
        ("Qwen3", "qwen3", {"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        ("Qwen2", "qwen2",
         {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
         {"type": "yarn", "factor": 4.0, "original_context_length": 64, "finetuned": True}),
        ("Llama", "llama",
         {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "beta_fast": 16.0},
         {"type": "yarn", "factor": 2.0, "original_context_length": 64, "yarn_beta_fast": 16.0}),
        ("Llama", "llama", {"rope_type": "default"}, {"type": "none"}),
    ],
)  # fmt: skip
def test_a_scaling_that_the_keys_state(
    files: ModuleType, kind: str, architecture: str, rope: dict[str, Any], said: dict[str, Any], tmp_path: Path
) -> None:
    made = files.model(kind, rope_parameters={**rope, "rope_theta": 1e5})
    keys = files.fields(made) | {f"rope.scaling.{key}": value for key, value in said.items()}
    agrees(files.write(tmp_path / "a.gguf", architecture, files.tensors(made, architecture), keys), made)


def test_the_two_sets_of_factors_of_phi_3(files: ModuleType, tmp_path: Path) -> None:
    short, long = np.linspace(1, 2, 8), np.linspace(2, 30, 8)
    for original in (64, 256):  # the rows of 150 tokens lie above and below
        rope = {
            "rope_type": "longrope", "short_factor": short.tolist(), "long_factor": long.tolist(), "rope_theta": 1e4,
        }  # fmt: skip
        made = files.model("Phi3", rope_parameters=rope, original_max_position_embeddings=original, sliding_window=99)
        attention = math.sqrt(1 + math.log(512 / original) / math.log(original))
        stored = files.tensors(made, "phi3")
        stored |= {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
        keys = files.fields(made) | {
            "rope.scaling.attn_factor": attention,
            "rope.scaling.original_context_length": original,
            "attention.sliding_window": 99,
        }
        agrees(files.write(tmp_path / "a.gguf", "phi3", stored, keys), made)
    del stored["rope_factors_short.weight"]
    with pytest.raises(ModelError, match=r"rope_factors_long\.weight, and rope_factors_short\.weight is missing"):
        load_base(resolve(str(files.write(tmp_path / "a.gguf", "phi3", stored, keys))))


def test_scaling_that_has_no_place_is_refused(files: ModuleType, tmp_path: Path) -> None:
    made = files.model("Llama")
    stored, keys = files.tensors(made, "llama"), files.fields(made)
    for more, said, words in (
        ({}, {"rope.scaling.type": "new"}, "rope.scaling.type = new"),
        (
            {},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_log_multiplier": 0.1},
            "yarn_log",
        ),
        ({"rope_freqs.weight": np.ones(5)}, {}, "rope_freqs.weight has 5 factors, and 8 above zero"),
        ({"rope_freqs.weight": np.full(8, 2.0)}, {"rope.scaling.type": "yarn"}, "rope_freqs.weight beside"),
        ({}, {"rope.dimension_count": 8}, "rope.dimension_count is 8 of 16"),
        ({}, {"attention.value_length": 8}, "attention.value_length is 8"),
    ):
        path = files.write(tmp_path / "a.gguf", "llama", stored | more, {**keys, **said})
        with pytest.raises(ModelError, match=words):
            load_base(resolve(str(path)))


# --- shapes and options that transformers takes for granted --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "architecture", "options", "said"),
    [
        ("Qwen3", "qwen3", {"head_dim": 32}, {}),
        ("Qwen3", "qwen3", {"tie_word_embeddings": True, "head_dim": 24}, {}),
        ("Qwen2", "qwen2", {}, {}),
        ("Llama", "llama", {"head_dim": 32}, {}),
        ("Llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}),
        ("Qwen3", "qwen3", {"attention_bias": True, "head_dim": 16}, {}),
        ("Starcoder2", "starcoder2",
         {"rope_parameters": {"rope_type": "default", "rope_theta": 9e5}, "norm_epsilon": 1e-3},
         {"attention.layer_norm_epsilon": 1e-3}),
        ("StableLm", "stablelm",
         {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
         {"attention.layer_norm_epsilon": 1e-5, "use_parallel_residual": False}),
        ("Gemma2", "gemma2", {"head_dim": 16, "sliding_window": 40, "final_logit_softcapping": 7.0,
         "attn_logit_softcapping": 9.0, "query_pre_attn_scalar": 16, "tie_word_embeddings": True},
         {"attention.sliding_window": 40, "final_logit_softcapping": 7.0, "attn_logit_softcapping": 9.0}),
        ("Gemma3", "gemma3", {"head_dim": 16, "sliding_window": 40, "query_pre_attn_scalar": 16,
         "tie_word_embeddings": True, "num_hidden_layers": 7,
         "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
         {"attention.sliding_window": 40, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
        ("Nemotron", "nemotron", {"head_dim": 16}, {"attention.layer_norm_epsilon": 1e-5}),
        ("Qwen2Moe", "qwen2moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "shared_expert_intermediate_size": 48}, {"expert_count": 4, "expert_used_count": 2,
         "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 48}),
        ("Qwen3Moe", "qwen3moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
         "moe_intermediate_size": 32}, {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}),
    ],
)  # fmt: skip
def test_what_the_file_states_is_what_is_computed(
    files: ModuleType, kind: str, architecture: str, options: dict[str, Any], said: dict[str, Any], tmp_path: Path
) -> None:
    made = files.model(kind, **options)
    keys = {**files.fields(made), **said}
    path = files.write(tmp_path / "a.gguf", architecture, files.tensors(made, architecture), keys)
    agrees(path, made)
    assert find_model(str(path)).total == sum(weight.numel() for weight in made.parameters())


# --- quantisations ------------------------------------------------------------------------------------------------

MIXED = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q6_K", "": "Q4_K"}
"""As Q4_K_M mixes them."""


@pytest.mark.parametrize(
    "kinds",
    [MIXED, *({"": kind} for kind in ("Q2_K", "Q3_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")),
     *({"": kind} for kind in ("IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S")),
     {"": "F16"}, {"": "BF16"}],
    ids=lambda kinds: kinds[""],
)  # fmt: skip
def test_quantised_weights_are_what_gguf_makes_of_them(
    files: ModuleType, kinds: dict[str, str], tmp_path: Path
) -> None:
    made = files.model("Qwen3", hidden_size=256, intermediate_size=512, head_dim=64)
    stored, types, values = files.tensors(made, "qwen3"), {}, {}
    for seed, (name, plain) in enumerate(list(stored.items())):
        if plain.ndim < 2:
            continue
        kind = next(kind for part, kind in kinds.items() if part in name)
        types[name] = gguf.GGMLQuantizationType[kind]
        if kind in files.SCALES:
            stored[name] = files.blocks(kind, plain.shape, seed)
        elif kind == "F16":
            stored[name] = plain.astype(np.float16)
        else:
            stored[name] = gguf.quantize(plain, types[name])
        values[name] = gguf.dequantize(stored[name], types[name]).reshape(plain.shape)
        assert np.isfinite(values[name]).all()
    path = files.write(tmp_path / "a.gguf", "qwen3", stored, files.fields(made), types)
    loaded = load_base(resolve(str(path))).model.state_dict()
    names = {ours: name for name, ours in zip(made.state_dict(), files.tensors(made, "qwen3"), strict=True)}
    for name, value in values.items():
        assert torch.equal(loaded[names[name]], torch.from_numpy(np.array(value, dtype=np.float32))), name
    assert find_model(str(path)).dtype == {"F16": "float16", "BF16": "bfloat16"}.get(kinds[""], "quantized")


# --- parts, and what is left out ----------------------------------------------------------------------------------


def split(files: ModuleType, made: Any, folder: Path, cuts: tuple[int, ...] = (9, 16)) -> list[Path]:
    stored = list(files.tensors(made, "qwen3").items())
    bounds = [0, *cuts, len(stored)]
    return [
        files.write(
            folder / f"base-{part + 1:05d}-of-{len(cuts) + 1:05d}.gguf", "qwen3",
            dict(stored[bounds[part] : bounds[part + 1]]), files.fields(made), split=(part, len(cuts) + 1, len(stored)),
        )
        for part in range(len(cuts) + 1)
    ]  # fmt: skip


@pytest.mark.parametrize("cuts", [(9, 16), (0, 5)])
def test_a_split_model_is_loaded_and_counted_whole(
    files: ModuleType, cuts: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a first part that has the keys only, and where the working directory holds a part of the same name."""
    made = files.model("Qwen3", head_dim=16)
    paths = split(files, made, tmp_path, cuts)
    monkeypatch.chdir(tmp_path)
    for asked in (paths[0], Path(paths[0].name)):
        agrees(asked, made)
        assert find_model(str(asked)).total == sum(weight.numel() for weight in made.parameters())
    assert load_config(resolve(str(paths[0]))).tie_word_embeddings is False


def test_parts_that_lack_one_or_are_not_the_first_are_refused(files: ModuleType, tmp_path: Path) -> None:
    made = files.model("Qwen3", head_dim=16)
    first, second, third = split(files, made, tmp_path)
    for read in (resolve, find_model):
        with pytest.raises(ModelError, match=rf"is part 2 of 3 of a split model\. Name the first: {first.name}"):
            read(str(second))
    other = third.rename(tmp_path / "elsewhere")
    for read in (resolve, find_model):
        with pytest.raises(ModelError, match=rf"part 1 of 3 \(split\.count\), and {third.name} is not beside it"):
            read(str(first))
    other.rename(third)
    renamed = first.rename(tmp_path / "base.gguf")
    with pytest.raises(ModelError, match="must be called NAME-00001-of-00003"):
        resolve(str(renamed))
    renamed.rename(first)
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelError, match=f"{third.name}: does not say that it is part 3 of 3"):
        resolve(str(first))


def test_a_tensor_that_transformers_would_drop_is_refused_by_name(files: ModuleType, tmp_path: Path) -> None:
    made = files.model("Qwen3", head_dim=16)
    stored, keys = files.tensors(made, "qwen3"), files.fields(made)
    for name in ("blk.1.attn_q.scale", "blk.0.post_ffw_norm.weight", "output_norm.bias", "adapter.weight"):
        path = files.write(tmp_path / "a.gguf", "qwen3", stored | {name: np.ones(64)}, keys)
        with pytest.raises(ModelError, match=f"{name} is in the file, and transformers' Qwen3ForCausalLM has no place"):
            load_base(resolve(str(path)))


def test_a_key_that_transformers_would_drop_is_refused_by_name(files: ModuleType, tmp_path: Path) -> None:
    made = files.model("Qwen3", head_dim=16)
    stored, keys = files.tensors(made, "qwen3"), files.fields(made)
    for said in ({"logit_scale": 0.5}, {"attention.scale": 0.1}, {"expert_count": 3}, {"of_next_year": 1}):
        path = files.write(tmp_path / "a.gguf", "qwen3", stored, {**keys, **said})
        with pytest.raises(ModelError, match=f"states {next(iter(said))} = "):
            load_base(resolve(str(path)))
    neutral = {"logit_scale": 1.0, "attention.causal": True, "expert_count": 0, "tensor_data_layout": "x"}
    agrees(files.write(tmp_path / "a.gguf", "qwen3", stored, {**keys, **neutral}), made)


def test_files_that_are_no_whole_model_are_refused(files: ModuleType, tmp_path: Path) -> None:
    made = files.model("Qwen3", head_dim=16)
    stored, keys = files.tensors(made, "qwen3"), files.fields(made)
    half = {name: value for name, value in stored.items() if not name.startswith("blk.1.")}
    with pytest.raises(ModelError, match=r"no tensor of layer 1 \(1 of 2 layers are missing\)"):
        resolve(str(files.write(tmp_path / "a.gguf", "qwen3", half, keys)))
    path = files.write(tmp_path / "a.gguf", "qwen3", stored, keys)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"is cut off: .* ends after its last byte"):
        load_base(resolve(str(path)))
    kinds = {"output_norm.weight": gguf.GGMLQuantizationType.F64}
    doubled = stored | {"output_norm.weight": np.ones(64).view(np.uint8)}
    path = files.write(tmp_path / "a.gguf", "qwen3", doubled, keys, kinds)
    with pytest.raises(ModelError, match=r"output_norm\.weight is stored as F64"):
        load_base(resolve(str(path)))
    wrong = stored | {"blk.1.ffn_up.weight": np.ones((32, 64))}
    path = files.write(tmp_path / "a.gguf", "qwen3", wrong, keys)
    with pytest.raises(ModelError, match=r"up_proj\.weight is \(32, 64\) in the files, and \(96, 64\)") as caught:
        load_base(resolve(str(path)))
    assert "above report" not in str(caught.value)
