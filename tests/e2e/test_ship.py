"""`lowregret ship`: a run's winner in every form, each read by the program that it is for; and what is refused."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from lowregret.runs.proof import Bound

peft: Any = pytest.importorskip("peft")
pytest.importorskip("xllamacpp")

SMALL = "--batch-size 4 --max-length 64 --evals 1 --steps 6 --learning-rate 3e-3".split()
DATA = "--data builtin:arithmetic:size=32 --max-eval 8 --max-train 16 --replies 0".split()


@pytest.fixture(scope="module")
def runs(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on all matrices but the unembedding, which `tiny` ties; and a full fine-tuning."""
    folder = tmp_path_factory.mktemp("ship")
    for name, method in (("lora", "lora:4:linear"), ("full", "full")):
        done = run("train", "--model", "tiny", *SMALL, *DATA, "--method", method, "--out", folder / name)
        assert done.exit_code == 0, done.stderr
    return folder


def proof_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "proof.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "form", "more", "reader"),
    [
        ("lora", "peft", (), "PEFT"),
        ("lora", "merged", ("--dtype", "bfloat16"), "transformers"),
        ("lora", "gguf", ("--kind", "F32"), "llama.cpp"),
        ("lora", "gguf-lora", (), "llama.cpp"),
        ("lora", "ollama", (), "llama.cpp"),
        ("full", "merged", (), "transformers"),
        ("full", "gguf", ("--kind", "Q8_0"), "llama.cpp"),
    ],
)
def test_a_winner_in_a_form(
    run: Any, runs: Path, name: str, form: str, more: tuple[str, ...], reader: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("ship", runs / name, "--to", form, *more, "--out", out)
    assert done.exit_code == 0, done.stderr
    proof = proof_of(out)
    assert proof["reader"].startswith(reader)
    assert proof["holds"]
    assert proof["positions"] > 20
    assert (proof["largest_difference"] > 0) == ((name, form) != ("full", "merged")), "the same file is read twice"
    trained, shipped = proof["held_out"]["trained"], proof["held_out"]["shipped"]
    record = json.loads((runs / name / "trial.json").read_text())
    assert trained == pytest.approx(record["test_nll"], abs=1e-4), "the proof is of another model, or of other data"
    assert abs(shipped - trained) < 0.02
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == {"peft": "peft", "merged": "transformers"}.get(form, "gguf")
    assert "## Proof" in card.content
    files = [file for file in out.rglob("*") if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) & 0o600 for file in files} == {0o600}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {stat.S_IMODE((out / "README.md").stat().st_mode)}
    assert not [file for file in files if str(runs).encode() in file.read_bytes()], "a place of this machine"
    assert str(out) in done.stdout
    assert "What to type next" in done.stdout


def test_llama_cpp_transformers_and_peft_answer_with_the_same_tokens(run: Any, runs: Path, tmp_path: Path) -> None:
    for form, more in (("peft", ()), ("merged", ("--dtype", "float32")), ("gguf", ("--kind", "F32"))):
        done = run("ship", runs / "lora", "--to", form, *more, "--out", tmp_path / form)
        assert done.exit_code == 0, done.stderr
    from lowregret.models.files import BUNDLED

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = tokenizer("What is 12 + 13?", return_tensors="pt")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(BUNDLED / "tiny")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "peft")
    said = [model.generate(**asked, max_new_tokens=24, do_sample=False)[0] for model in (merged, adapted)]
    assert torch.equal(*said)
    proof = proof_of(tmp_path / "gguf")
    assert proof["same_token_ids"]
    assert proof["same_greedy_tokens"] == proof["greedy_tokens"]


def test_a_proof_that_does_not_hold_leaves_nothing(
    run: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowregret.ship import prove

    monkeypatch.setitem(prove.BOUNDS, "bfloat16", Bound(largest=1e-6, mean=1e-6, loss=1e-6))
    done = run("ship", runs / "lora", "--to", "merged", "--dtype", "bfloat16", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "is not written: transformers" in done.stderr
    assert "Ship it with --dtype float32" in done.stderr
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_the_trained_ones_are_found(
    run: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in unsloth#5410, where a merge left matrices out and nobody was told."""
    from lowregret.export.merged.weights import MergedWeights

    whole = MergedWeights.rounded

    def forgetful(self: MergedWeights, name: str, dtype: torch.dtype) -> torch.Tensor:
        return self._stored.read(name).to(dtype) if "down_proj" in name else whole(self, name, dtype)

    monkeypatch.setattr(MergedWeights, "rounded", forgetful)
    done = run("ship", runs / "lora", "--to", "merged", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "is not written" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["peft", "merged", "gguf", "gguf-lora"])
def test_a_model_too_large_to_be_loaded_is_written_and_said_to_be_unproved(
    run: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from lowregret.ship import read

    monkeypatch.setattr(read, "_ROOM", 1e9)
    done = run("ship", runs / "lora", "--to", form, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "NOT proved: not loaded here: it takes" in done.stdout
    proof = proof_of(tmp_path / "out")
    assert (proof["holds"], proof["largest_difference"]) == (False, None)
    assert list(proof["files"]) == [
        file.name for file in (tmp_path / "out").iterdir() if file.suffix in (".safetensors", ".gguf")
    ]


def test_no_room_on_the_disk(run: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10))
    for form in ("merged", "gguf"):
        done = run("ship", runs / "lora", "--to", form, "--out", tmp_path / "out")
        assert done.exit_code == 2
        assert "Free some space" in done.stderr
        assert ".partial" not in done.stderr
        assert not list(tmp_path.iterdir())


def test_an_earlier_shipment_is_replaced_and_nothing_else(run: Any, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        done = run("ship", runs / "lora", "--to", "peft", "--out", out)
        assert done.exit_code == 0, done.stderr
    (out / "proof.json").unlink()
    done = run("ship", runs / "lora", "--to", "peft", "--out", out)
    assert done.exit_code == 2
    assert "holds no proof.json of an earlier shipment" in done.stderr


def test_another_base_of_the_same_shapes(run: Any, runs: Path, tmp_path: Path) -> None:
    from lowregret.models.files import BUNDLED

    other = tmp_path / "other"
    shutil.copytree(BUNDLED / "tiny", other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.01)
    model.save_pretrained(other)
    done = run("ship", runs / "lora", "--to", "merged", "--model", other, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "is not the one that" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("RUNS/none", "--to", "peft"), "is no folder"),
        (("RUNS", "--to", "peft"), "holds no run with a result"),
        (("RUNS/full", "--to", "peft"), "it has no adapter"),
        (("RUNS/full", "--to", "gguf", "--method", "lora"), "Say --method full"),
        (("RUNS/lora", "--to", "ggfu"), "--to 'ggfu': no such form. Did you mean 'gguf'?"),
        (("RUNS/lora", "--to", "gguf", "--kind", "Q9"), "GGUF has no kind 'Q9'"),
        (("RUNS/lora", "--to", "peft", "--dtype", "float32"), "--dtype: is of use with merged alone"),
        (("RUNS/lora", "--to", "merged", "--kind", "F16"), "--kind: is of use with gguf and ollama alone"),
        (("RUNS/lora", "--to", "merged", "--public"), "--public: is of use with --push alone"),
        (("RUNS/lora", "--to", "merged", "--base-name", "no"), "--base-name 'no': is no name of a repository"),
        (("RUNS/full", "--to", "merged", "--model", "tiny"), "is a whole model, which needs no base"),
    ],
    ids=str,
)
def test_what_cannot_be_shipped_is_said(
    run: Any, runs: Path, arguments: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    given = [argument.replace("RUNS", str(runs)) for argument in arguments]
    done = run("ship", *given, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert problem in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_any_adapter_is_exported(run: Any, runs: Path, tmp_path: Path) -> None:
    """One that lies outside of its run, on a base that is named."""
    shutil.copytree(runs / "lora" / "adapter", tmp_path / "mine")
    named = ("--model", "tiny", "--adapter", f"{tmp_path / 'mine'}:0.5")
    done = run("export", "--format", "gguf", *named, "--kind", "F16", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["form"], said["proof"]["holds"], said["proof"]["held_out"]) == ("gguf", True, None)
    done = run("export", "--adapter", tmp_path / "mine", "--out", tmp_path / "more")
    assert done.exit_code == 2
    assert "--adapter: is of use with --format only" in done.stderr


def test_a_shipment_is_published(
    run: Any, runs: Path, tmp_path: Path, load_module: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs = load_module(Path(__file__).parents[1] / "hub.py")
    named = ("--out", tmp_path / "out", "--base-name", "me/tiny", "--push", "me/arithmetic")
    with hubs.serving() as hub:
        for name, value in (("ENDPOINT", hub.address), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
        done = run("ship", runs / "lora", "--to", "peft", *named)
        assert done.exit_code == 0, done.stderr
        there = {path: content for path, content in hub.repositories["me/arithmetic"].files.items() if path[0] != "."}
        assert there == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "me/tiny"
        assert hub.repositories["me/arithmetic"].private
        done = run("ship", runs / "lora", "--to", "peft", *named)
        assert done.exit_code == 2
        assert "--overwrite" in done.stderr
