"""What a form refuses, and what an error of a proof says to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.export.peft import export_policy
from lowregret.runs.atomic import write_json
from lowregret.runs.files import MANIFEST, SPEC
from lowregret.runs.forms import Form
from lowregret.runs.manifest import Manifest, digests
from lowregret.runs.proof import Proof
from lowregret.ship import ship as shipping
from lowregret.ship.ship import Wanted, ship
from lowregret.ship.winner import Winner
from lowregret.spec import LoRA


@pytest.mark.parametrize("form", ["peft", "merged", "gguf", "gguf-lora", "ollama"])
def test_every_form_refuses_another_base_than_the_run_was_trained_on(
    bases: ModuleType, form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hashes in its manifest: a LoRA file is written of the adapter alone, and fits any base of its shapes."""
    monkeypatch.setattr(shipping, "_check", lambda winner, wanted: None)  # of the programs that would read it
    base, other, run = tmp_path / "base", tmp_path / "other", tmp_path / "run"
    made = bases.small_base("llama")
    made.model.save_pretrained(base)
    made.tokenizer.save_pretrained(base)
    engine = Engine(made)
    bases.stir(engine.add_policy("lora", LoRA(rank=2, alpha=4, targets=("attention",))))
    adapter = run / "best" / "lora"
    export_policy(engine, "lora", adapter)
    (run / SPEC).write_text("{}")
    known = digests({"model.safetensors": base / "model.safetensors"})
    write_json(run / MANIFEST, Manifest(base=known, train="", test=""))
    shutil.copytree(base, other)
    bases.small_base("llama", seed=1).model.save_pretrained(other)
    winner = Winner(str(other), ((adapter, 1.0),), str(other))
    with pytest.raises(ModelError, match=r"other: its model\.safetensors is not the one that the run .* was trained"):
        ship(winner, Wanted(form), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "precision", "remedy"),
    [
        ("merged", "bfloat16", "Ship it with --dtype float32."),
        ("merged", "float32", "Report it."),
        ("gguf", "Q8_0", "Ship it with --kind F32."),
        ("gguf", "F32", "Report it."),
        ("ollama", "Q8_0", "Ship it with --kind F16."),
        ("ollama", "F16", "Report it."),
        ("ollama", "F32", "Report it."),
        ("peft", "float32", "Report it."),
        ("gguf-lora", "F32", "Report it."),
    ],
)
def test_what_is_told_to_do_is_not_what_was_done(form: Form, precision: str, remedy: str) -> None:
    proof = Proof(
        form=form, precision=precision, reader="one", reference="other", texts=1, positions=2, compared="logits",
        largest_difference=1.0, mean_difference=1.0, bound="under 1e-3", holds=False, seconds=1.0, bytes=1, files={},
    )  # fmt: skip
    assert shipping._refused(Path("out"), proof).endswith(remedy)
