"""`lora:RANK:nf4` beside `lora:RANK` and `full`, trained, judged again, shipped; folders in NF4; what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

DATA = "--data builtin:arithmetic:size=32 --max-eval 8 --max-length 64".split()
SMALL = [*"--max-train 16 --batch-size 4 --evals 1 --steps 6".split(), *DATA]
OVER_TWO = "--methods lora:2:linear,lora:2:nf4:linear,full --seeds 2 --checkpoint-seconds 0 --learning-rates 2e-3"
COMPARE = ["compare", "--model", "tiny", *SMALL, *OVER_TWO.split()]


def record(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def trained(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nf4") / "run"
    rate = ("--learning-rate", "3e-3", "--replies", "1")
    done = run("train", "--model", "tiny", *SMALL, "--method", "lora:4:nf4:linear", *rate, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert {"base", "lora"} == record(out / "replies.json")["rows"][0]["replies"].keys()
    return out


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled base as transformers and bitsandbytes save it."""
    pytest.importorskip("accelerate")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from lowregret.models.load import resolve

    folder, source = tmp_path_factory.mktemp("packed") / "tiny-nf4", resolve("tiny").path
    how: Any = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, quantization_config=how)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def compared(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nf4") / "compared"
    done = run(*COMPARE, "--out", out)
    assert done.exit_code == 0, done.stderr
    return out


def test_three_methods_over_two_bases(run: Any, compared: Path) -> None:
    base, verdict = record(compared / "base.json"), record(compared / "verdict.json")
    quantised = base["quantised"]["nf4"]["test_nll"]
    assert quantised != base["test_nll"] == verdict["base_nll"]
    found = {method["name"]: method for method in verdict["methods"]}
    assert {name: method["base_nll"] for name, method in found.items()} == {
        "lora:2:linear": None,
        "lora:2:nf4:linear": quantised,
        "full": None,
    }
    assert found["lora:2:nf4:linear"]["regret_nats"] not in (None, found["lora:2:linear"]["regret_nats"])
    assert any("The base in nf4, on which lora:2:nf4:linear trains, starts at" in said for said in verdict["reasons"])
    trials = {path.parent.name: record(path) for path in (compared / "trials").glob("*/trial.json")}
    assert all(trial["status"] in ("finished", "pruned") for trial in trials.values())
    checked = run("verify", compared)
    assert checked.exit_code == 0, checked.stdout + checked.stderr


def test_killed_in_the_pack_over_it_it_goes_on_to_the_same_numbers(
    run: Any, compared: Path, kill_resume: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before a trial over the base in NF4 is concluded: what is left is the checkpoint of the round before."""
    from lowregret.study import scheduler

    class Killed(BaseException):
        pass

    def kill(pack: Any, member: Any, *others: Any) -> Any:
        if member.trial.method.quantisation == "nf4":
            raise Killed
        return conclude(pack, member, *others)

    conclude = scheduler.conclude
    monkeypatch.setattr(scheduler, "conclude", kill)
    with pytest.raises(Killed):
        run(*COMPARE, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()
    monkeypatch.undo()
    done = run(*COMPARE, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert kill_resume.numbers(tmp_path / "out") == kill_resume.numbers(compared)


def test_it_is_judged_again_as_it_was_and_over_the_base_as_it_is(run: Any, trained: Path) -> None:
    first = record(trained / "trial.json")["test_nll"]
    again, other = (
        json.loads(run("eval", trained, "--json", *more).stdout)["nll"] for more in ((), ("--quantisation", "none"))
    )
    assert again == first
    assert other != first


def test_a_merge_tells_the_loss_both_ways(run: Any, trained: Path, tmp_path: Path) -> None:
    done = run("ship", trained, "--to", "merged", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    found = record(tmp_path / "out" / "proof.json")["held_out"]
    assert found["quantised"] == pytest.approx(record(trained / "trial.json")["test_nll"], abs=1e-6)
    assert found["shipped"] == pytest.approx(found["trained"], abs=1e-5)
    assert abs(found["quantised"] - found["shipped"]) > 1e-5
    assert f"{found['quantised']:.6f} as trained over a quantised base" in done.stdout
    assert "Held-out loss over the quantised base, as trained" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_in_nf4_is_the_same_base(run: Any, packed: Path, trained: Path, tmp_path: Path) -> None:
    """Its bytes are taken as they are: what `nf4` makes of the original."""
    losses = [
        json.loads(run("eval", "--model", model, *DATA, "--quantisation", "nf4", "--json").stdout)["nll"]
        for model in ("tiny", packed)
    ]
    assert losses[0] == losses[1]
    rate = ("--learning-rate", "3e-3")
    done = run("train", "--model", packed, *SMALL, "--method", "lora:4:nf4:linear", *rate, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert record(tmp_path / "out" / "trial.json")["test_nll"] == record(trained / "trial.json")["test_nll"]
    refused = run("ship", tmp_path / "out", "--to", "merged")
    assert (refused.exit_code, "Use the original" in refused.stderr) == (2, True)
    merged = run("ship", tmp_path / "out", "--to", "merged", "--model", "tiny")
    assert merged.exit_code == 0, merged.stderr
    assert "as trained over a quantised base" in merged.stdout


def test_what_cannot_be_trained_over_it(
    run: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowregret.models import four_bit

    start = ("train", "--model", "tiny", *SMALL, "--out", tmp_path / "out", "--method")
    of_packed = ("train", "--model", packed, *SMALL, "--out", tmp_path / "out", "--method")
    cases: list[tuple[tuple[object, ...], list[str]]] = [
        ((*start, "full:nf4"), ["cannot be fully fine-tuned", "lora:RANK:nf4"]),
        (
            (*start, "lora:4:nf4", "--devices", "2", "--parallel", "fsdp=2"),
            ["lies whole", "replicate=2"],
        ),
        ((*start, "lora:4:nf5"), ["unknown target 'nf5'", "nf4"]),
        ((*of_packed, "full"), ["in NF4", "full needs the base as it is", "Give the original"]),
        ((*of_packed, "lora:4"), ["lora:4 needs the base as it is"]),
        (("eval", "--model", packed, *DATA), ["--quantisation nf4", "give the original"]),
        (("eval", "--model", "tiny", *DATA, "--quantisation", "int4"), ["--quantisation 'int4'", "none"]),
        (("plan", packed), ["is quantised", "Use the original"]),
    ]
    for words, said in cases:
        ended = run(*words)
        assert ended.exit_code == 2, words
        assert all(word in ended.stderr for word in said), ended.stderr
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    four_bit.bitsandbytes.cache_clear()
    try:
        ended = run(*start, "lora:4:nf4")
    finally:
        monkeypatch.undo()
        four_bit.bitsandbytes.cache_clear()
    assert ended.exit_code == 2
    assert "pip install 'lowregret[nf4]'" in ended.stderr
    assert not (tmp_path / "out" / "spec.json").exists()
