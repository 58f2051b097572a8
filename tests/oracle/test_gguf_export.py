"""What is written as GGUF is answered by llama.cpp as transformers and PEFT answer, and read back by our own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from gguf_folders import BASES, CUTS, byte_level, folder, sentencepiece
from lowregret.data.example import Example
from lowregret.errors import ModelError
from lowregret.export.gguf.kinds import KINDS
from lowregret.export.gguf.llama_cpp import ask
from lowregret.export.gguf.lora import write_lora_gguf
from lowregret.export.gguf.prove import AWKWARD, Reference, prove_gguf
from lowregret.export.gguf.write import write_gguf
from lowregret.export.ollama.write import write_ollama
from lowregret.export.weights import StoredWeights
from lowregret.models.load import load_base, resolve
from lowregret.runs.proof import Proof

pytest.importorskip("xllamacpp")
peft = pytest.importorskip("peft")


def write(base: Path, file: Path, kind: str = "F32") -> Path:
    with StoredWeights(base) as weights:
        write_gguf(weights, file, kind)
    return file


def prove(file: Path, model: Any, tokenizer: Any, **more: Any) -> Proof:
    held_out = [Example((5, 6, 7, 8, 9), (False, False, True, True, True))]
    more = {"texts": AWKWARD, "kind": "F32", "held_out": held_out, **more}
    return prove_gguf(file, Reference(model, tokenizer, "transformers"), **more)


class GeluByTable(torch.nn.Module):
    """GELU as llama.cpp's CPU has it: looked up by the half float of what goes in (ggml, `ggml_vec_gelu_f32`)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        halves = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
        return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, halves))


def as_llama_cpp(model: Any) -> Any:
    """The same model, its GELU by llama.cpp's table."""
    for module in model.modules():
        if module.__class__.__name__ in ("Gemma2MLP", "Gemma3MLP"):
            module.act_fn = GeluByTable()
    return model


@pytest.mark.parametrize("name", BASES)
def test_llama_cpp_answers_as_transformers(name: str, tmp_path: Path) -> None:
    base, model, tokenizer = folder(name, tmp_path / "base")
    file = write(base, tmp_path / "model.gguf")
    gelu = name.startswith("gemma")
    if gelu:
        assert prove(file, model, tokenizer).holds
    proof = prove(file, as_llama_cpp(model) if gelu else model, tokenizer)
    first = name == "llama, linear"  # a blank before the first word alone has no form in the file
    assert proof.same_token_ids is not first
    assert proof.holds is not first
    assert proof.largest_difference is not None
    assert proof.largest_difference < (5e-3 if gelu else 1e-3)  # between two halves of the table noise decides
    assert proof.same_greedy_tokens == proof.greedy_tokens
    assert proof.held_out is not None
    assert proof.held_out.shipped == pytest.approx(proof.held_out.trained, abs=1e-4)


@pytest.mark.parametrize("name", BASES)
def test_our_reader_has_the_weights_back_to_the_bit(name: str, tmp_path: Path) -> None:
    base, model, _ = folder(name, tmp_path / "base")
    read = load_base(resolve(str(write(base, tmp_path / "model.gguf")))).model
    own, found = model.state_dict(), read.state_dict()
    assert own.keys() == found.keys()
    gemma = name.startswith("gemma")
    for key, value in own.items():
        exact = not (gemma and "norm" in key)  # stored as one more, and that is rounded
        torch.testing.assert_close(found[key], value, rtol=0, atol=0 if exact else 2.4e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_within_its_bound(kind: str, tmp_path: Path) -> None:
    base, model, tokenizer = folder("qwen2", tmp_path / "base")
    file = write(base, tmp_path / "model.gguf", kind)
    read = load_base(resolve(str(file))).model.state_dict()
    worst = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 2**-7, "Q5_0": 2**-4, "Q4_0": 2**-3}[kind]
    for key, value in model.state_dict().items():
        if value.ndim == 2:
            assert float((read[key] - value).abs().max() / value.abs().max()) <= worst
    proof = prove(file, model, tokenizer, kind=kind)
    assert proof.same_token_ids
    assert proof.holds, proof


@pytest.mark.parametrize("cut", CUTS)
def test_llama_cpp_reads_the_same_tokens_by_every_pre_tokenizer(cut: str, tmp_path: Path) -> None:
    base, _, tokenizer = folder("llama", tmp_path / "base", byte_level(cut))
    file = write(base, tmp_path / "model.gguf")
    said = ask(file, lora=None, rows=1024, texts=AWKWARD, prompts=[], continued=1, seconds=300)
    assert list(said.tokens) == [tokenizer(text)["input_ids"] for text in AWKWARD]


@pytest.mark.parametrize("scheme", ["every", "none"])
def test_llama_cpp_reads_the_same_pieces(scheme: str, tmp_path: Path) -> None:
    base, _, tokenizer = folder("llama", tmp_path / "base", sentencepiece(scheme))
    file = write(base, tmp_path / "model.gguf")
    texts = [*AWKWARD, "<s>[INST] Hello there [/INST] Yes</s>", "a</s> b"]
    said = ask(file, lora=None, rows=1024, texts=texts, prompts=[], continued=1, seconds=300)
    assert list(said.tokens) == [tokenizer(text)["input_ids"] for text in texts]


def adapter(model: Any, place: Path, **fields: Any) -> Any:
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **fields})
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    adapted.save_pretrained(place)
    return adapted.eval()


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {"target_modules": [*ALL, "lm_head"], "use_rslora": True}),
        ("mistral", {"target_modules": ALL, "rank_pattern": {"k_proj": 8}, "alpha_pattern": {"up_proj": 3}}),
        ("qwen3, yarn", {"target_modules": ALL}),
        ("gemma3", {"target_modules": ["q_proj", "down_proj"]}),
        ("qwen3moe", {"target_modules": ["q_proj", "v_proj"]}),
    ],
)
def test_a_lora_is_answered_as_peft_does(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    base, model, tokenizer = folder(name, tmp_path / "base")
    file = write(base, tmp_path / "model.gguf")
    adapted = adapter(as_llama_cpp(model), tmp_path / "adapter", **fields)
    lora = write_lora_gguf(tmp_path / "adapter", base, tmp_path / "lora.gguf").file
    proof = prove(file, adapted, tokenizer, lora=lora)
    assert proof.holds, proof
    assert proof.same_greedy_tokens == proof.greedy_tokens
    assert not prove(file, adapted, tokenizer).holds, "the adapter does nothing"


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("llama", {"target_modules": ["q_proj"], "use_dora": True}, "is a DoRA"),
        ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ("qwen2", {"target_modules": ["q_proj", "lm_head"]}, "ties it to its embedding"),
        ("qwen3moe", {"target_parameters": ["mlp.experts.down_proj"]}, "experts"),
    ],
)
def test_what_llama_cpp_has_no_form_for_is_refused_with_what_to_do(
    name: str, fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    base, model, _ = folder(name, tmp_path / "base")
    adapter(model, tmp_path / "adapter", **fields)
    with pytest.raises(ModelError, match=rf"{says}.*Merge it"):
        write_lora_gguf(tmp_path / "adapter", base, tmp_path / "lora.gguf")
    assert not list(tmp_path.glob("*gguf*"))


def test_llama_cpp_on_a_broken_file_or_another_bases_adapter_is_a_named_error(tmp_path: Path) -> None:
    base, model, _ = folder("llama", tmp_path / "base")
    file = write(base, tmp_path / "model.gguf")
    adapter(model, tmp_path / "adapter", target_modules=["q_proj"])
    lora = write_lora_gguf(tmp_path / "adapter", base, tmp_path / "lora.gguf").file
    other, _, _ = folder("qwen2", tmp_path / "other")
    wrong = write(other, tmp_path / "other.gguf")
    asked: Any = {"rows": 1024, "texts": ["a"], "prompts": [], "continued": 1, "seconds": 300}
    with pytest.raises(ModelError, match=r"lora.gguf: llama.cpp ended .*does not take the file"):
        ask(wrong, lora=lora, **asked)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"model.gguf: llama.cpp ended .*does not take the file"):
        ask(file, lora=None, **asked)
    with pytest.raises(ModelError, match=r"took more than 0\.01 seconds"):
        ask(wrong, lora=None, **{**asked, "seconds": 0.01})


@pytest.mark.parametrize("bos", ["of nobody", "of the template", "of the tokenizer"])
def test_a_folder_for_ollama_answers_too(bos: str, tmp_path: Path) -> None:
    """BOS comes where the chat template writes it, whatever the tokenizer does to a text (SmolLM2's: nothing)."""
    base, model, tokenizer = folder("qwen2", tmp_path / "base")
    if bos != "of nobody":
        tokenizer.bos_token = token = "<|im_start|>" if bos == "of the template" else "<|endoftext|>"
        if bos == "of the tokenizer":
            special = [(token, tokenizer.bos_token_id)]
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single=f"{token} $A", special_tokens=special
            )
        tokenizer.save_pretrained(base)
    with StoredWeights(base) as weights:
        written = write_ollama(weights, tmp_path / "out")
    assert written.add_bos == (bos == "of the template")
    assert sorted(path.name for path in written.file.iterdir()) == ["Modelfile", "model.gguf"]
    said = (written.file / "Modelfile").read_text()
    assert said.startswith("FROM ./model.gguf\nTEMPLATE ")
    assert 'PARAMETER stop """<|im_end|>"""' in said
    assert "LICENSE" not in said
    file = written.file / "model.gguf"
    assert prove(file, model, tokenizer, kind="Q8_0", add_bos=written.add_bos).holds
    assert prove(file, model, tokenizer, kind="Q8_0", add_bos=not written.add_bos).holds == (bos == "of nobody")
