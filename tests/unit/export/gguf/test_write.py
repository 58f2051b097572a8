"""What a GGUF file has of a model, and what is refused before anything is written."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gguf_folders import folder
from lowregret.errors import ModelError, SpecError
from lowregret.export.gguf.architecture import architecture
from lowregret.export.gguf.kinds import KINDS, Type, stored, type_of
from lowregret.export.gguf.llama_cpp import ask
from lowregret.export.gguf.tensors import permuted
from lowregret.export.gguf.write import write_gguf
from lowregret.export.weights import StoredWeights
from lowregret.models.gguf.header import read_header


def test_permuted_rows_turn_neighbours_where_the_model_turns_halves() -> None:
    heads, width = 3, 8
    weight, vector = torch.randn(heads * width, 5), torch.randn(5)
    angles = torch.randn(width // 2)
    plain = (weight @ vector).reshape(heads, 2, width // 2)  # the first half of each head, then the second
    pairs = (permuted(weight, heads) @ vector).reshape(heads, width // 2, 2)
    turned = plain[:, 0] * angles.cos() - plain[:, 1] * angles.sin()
    torch.testing.assert_close(pairs[..., 0] * angles.cos() - pairs[..., 1] * angles.sin(), turned)


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    base, _, _ = folder("llama", tmp_path / "base")
    with StoredWeights(base) as weights:
        written = write_gguf(weights, tmp_path / "a.gguf", "Q8_0")
    header = read_header(written.file, "a")
    assert written.bytes == written.file.stat().st_size
    assert header.architecture == "llama"
    assert header.fields["tokenizer.ggml.pre"] == "qwen2"
    types = {tensor.name: tensor.type for tensor in header.tensors}
    assert {types[f"blk.0.{name}.weight"] for name in ("attn_q", "ffn_down")} == {Type.Q8_0}
    assert {types["blk.0.attn_norm.weight"], types["rope_freqs.weight"]} == {Type.F32}
    assert list(types)[1] == "token_embd.weight"


def test_rows_that_make_no_blocks_are_kept_in_halves_and_said(tmp_path: Path) -> None:
    base, _, _ = folder("llama", tmp_path / "base", intermediate_size=80)
    with StoredWeights(base) as weights:
        written = write_gguf(weights, tmp_path / "a.gguf", "Q4_0")
    assert "2 matrices have rows that are no multiple of 32 and are kept at F16" in written.notes[-1]


def test_the_ends_of_a_coarse_kind_are_finer_and_a_router_is_whole() -> None:
    assert type_of(KINDS["Q4_0"], "token_embd.weight", (64, 32)) is Type.Q8_0
    assert type_of(KINDS["Q4_0"], "blk.0.ffn_gate_inp.weight", (64, 32)) is Type.F32
    assert type_of(KINDS["Q4_0"], "blk.0.ffn_up.weight", (64, 32)) is Type.Q4_0


def test_a_number_too_large_for_F16_is_refused() -> None:
    with pytest.raises(ModelError, match=r"F16 has no number above 65504\. Write BF16 or F32"):
        stored(torch.tensor([[1e5]]), Type.F16, "x")
    assert np.isfinite(stored(torch.tensor([[6e4]]), Type.F16, "x")).all()


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("llama", {"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = gelu"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type = dynamic",
        ),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("qwen3moe", {"mlp_only_layers": [0]}, r"mlp_only_layers = \[0\]"),
        ("gemma2", {"query_pre_attn_scalar": 5}, "query_pre_attn_scalar = 5"),
        ("gemma2", {"attn_logit_softcapping": None}, "no attn_logit_softcapping"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    name: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    base, _, _ = folder(name, tmp_path / "base")
    with StoredWeights(base) as weights, pytest.raises(ModelError, match=rf"{says}.*Serve the merged model"):
        architecture({**weights.config, **changes}, "x")


def test_a_window_is_the_length_that_a_file_is_good_for(tmp_path: Path) -> None:
    base, _, _ = folder("mistral", tmp_path / "base")
    with StoredWeights(base) as weights:
        known = architecture(weights.config, "x")
    assert known.keys["context_length"] == 256
    assert "window" in known.notes[0]


class Half:
    """A model that lacks a tensor, or has one more."""

    def __init__(self, weights: StoredWeights, lacking: str = "", more: str = "") -> None:
        self.whole, self.folder, self.config = weights, weights.folder, weights.config
        self.names = [name for name in weights.names if name != lacking] + ([more] if more else [])

    def shape(self, name: str) -> tuple[int, ...]:
        return self.whole.shape(name) if name in self.whole.names else (4, 4)

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def read(self, name: str) -> torch.Tensor:
        return self.whole.read(name)


@pytest.mark.parametrize(
    ("name", "lacking", "more", "says"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight", "", "no weight for blk.1.ffn_up.weight: it is not whole"),
        ("llama", "model.norm.weight", "", "no weight for output_norm.weight"),
        ("llama", "", "model.layers.0.self_attn.q_norm.weight", "no place for"),
        ("llama", "", "vision.weight", "has the weight vision.weight"),
        ("qwen3moe", "model.layers.0.mlp.experts.2.up_proj.weight", "", "expert 2 has no weight"),
        ("llama", "lm_head.weight", "", "no weight for output.weight"),
    ],
)
def test_a_half_written_model_or_another_is_refused_and_leaves_nothing(
    name: str, lacking: str, more: str, says: str, tmp_path: Path
) -> None:
    base, _, _ = folder(name, tmp_path / "base")
    (tmp_path / "out").mkdir()
    with StoredWeights(base) as weights:
        assert not lacking or lacking in weights.names
        half = Half(weights, lacking, more)
        with pytest.raises(ModelError, match=says):
            write_gguf(half, tmp_path / "out" / "a.gguf", "F32")
    assert not list((tmp_path / "out").iterdir())


def test_a_read_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _, _ = folder("llama", tmp_path / "base")
    (tmp_path / "out").mkdir()
    with StoredWeights(base) as weights:
        read = weights.read

        def broken(name: str) -> torch.Tensor:
            if name == "model.norm.weight":
                raise OSError("gone")
            return read(name)

        monkeypatch.setattr(weights, "read", broken)
        with pytest.raises(ModelError, match=r"output_norm.weight cannot be written \(gone\)"):
            write_gguf(weights, tmp_path / "out" / "a.gguf", "F32")
    assert not list((tmp_path / "out").iterdir())


def test_an_unknown_kind_lists_the_kinds_and_a_k_quant_needs_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _, _ = folder("llama", tmp_path / "base")
    monkeypatch.setenv("PATH", str(tmp_path))
    with StoredWeights(base) as weights:
        with pytest.raises(SpecError, match=r"no kind 'Q7_0' here.*Q4_K_M"):
            write_gguf(weights, tmp_path / "a.gguf", "Q7_0")
        with pytest.raises(ModelError, match=r"Q4_K_M is made by llama-quantize, which is not on the PATH"):
            write_gguf(weights, tmp_path / "a.gguf", "Q4_K_M")
        program = tmp_path / "llama-quantize"
        program.write_text('#!/bin/sh\nexec /bin/cp "$1" "$2"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        written = write_gguf(weights, tmp_path / "a.gguf", "Q4_K_M")
        assert read_header(written.file, "a").architecture == "llama"
        program.write_text("#!/bin/sh\necho it is too hot >&2\nexit 3\n")
        with pytest.raises(ModelError, match=r"llama-quantize ended with 3 \(it is too hot\)"):
            write_gguf(weights, tmp_path / "b.gguf", "Q4_K_M")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "base", "llama-quantize"]


def test_without_llama_cpps_wheel_the_proof_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("lowregret.export.gguf.llama_cpp.version", missing)
    with pytest.raises(ModelError, match=r"pip install 'lowregret\[ship\]'"):
        ask(tmp_path / "a.gguf", lora=None, rows=8, texts=[], prompts=[], continued=1, seconds=1)
