"""The benchmark of GPUs, rehearsed: all of its code with tiny shapes, its laws with the kernels of a GPU too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import constants, page
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.card import Card
from benchmarks.gpu.drawn import Drawn, uneven
from benchmarks.gpu.laws import LAWS, Measured, world_of

from gpu_kernels import GPU
from lowregret.engine import engine as engine_module
from lowregret.plan.resources import hardware


def test_a_rehearsal_runs_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.md"
    assert main(["--rehearse", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    found = json.loads(out.with_suffix(".json").read_text())
    assert set(found["laws"]) == set(LAWS)
    for contenders in found["bases"].values():
        measured = [each for each in contenders if "skipped" not in each]
        assert {"LoRA r16 alone", "8 LoRAs r16, uneven", "FullFT", "PEFT LoRA r16, SDPA"} <= {
            each["label"] for each in measured
        }
        assert all(each["tokens_per_second"] > 0 and min(each["seconds"]) > 0 for each in measured)
        assert all(each["planned_bytes"] > 0 for each in measured if each["label"] in ("LoRA r16 alone", "FullFT"))
    assert found["constants"]["utilisation"] > 0
    text = out.read_text()
    assert "no figure here is a result" in text
    assert "missed" not in text


@pytest.mark.parametrize("law", LAWS)
def test_its_laws_hold_with_a_gpus_kernels(monkeypatch: pytest.MonkeyPatch, law: str) -> None:
    monkeypatch.setattr(engine_module, "kernels_for", lambda device, dtype: GPU)
    measured = LAWS[law](world_of(Card(torch.device("cpu")), small=True))
    assert measured.holds, measured


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "--rehearse" in capsys.readouterr().err
    for wrong in (["--rehearse"], ["--rehearse", "--write", "--out", "x.md"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)


def test_a_pack_is_uneven_in_every_policy() -> None:
    lengths = uneven(2, 24, 8)
    assert len({sum(own) for own in lengths}) == 8
    assert all(12 <= length <= 44 for own in lengths for length in own)


def test_what_was_measured_is_what_the_plan_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "hardware.json"
    before = hardware.CATALOGUE.read_text()
    copy.write_text(before)
    constants.write("H100 SXM 80GB", {"utilisation": 0.71234, "call_seconds": 3.456e-6}, copy)
    changed = [line for line in copy.read_text().splitlines() if line not in before.splitlines()]
    assert len(changed) == 1
    monkeypatch.setattr(hardware, "CATALOGUE", copy)
    hardware.catalogue.cache_clear()
    try:
        found = hardware.find_hardware("NVIDIA H100 80GB HBM3")
        assert (found.utilisation, found.call_seconds) == (0.712, 3.5e-6)
        assert "measured" in found.source
        other = hardware.find_hardware("L4")
        assert (other.utilisation, other.call_seconds) == (hardware.GPU_UTILISATION, hardware.KERNEL_SECONDS)
    finally:
        hardware.catalogue.cache_clear()


def contender(label: str, speed: float, **more: Any) -> dict[str, Any]:
    return {"label": label, "seconds": [1.0], "passes": 1, "tokens": 1, "tokens_per_second": speed, **more}


def test_the_page_says_what_was_reached_and_what_was_missed() -> None:
    contenders = [
        contender("LoRA r16 alone", 120.0, peak_bytes=100, planned_bytes=111, peak_share=0.4, waits_at=["x.py:3"]),
        contender("8 LoRAs r16, even", 100.0),
        contender("8 LoRAs r16, uneven", 96.0),
        contender("FullFT", 50.0, peak_share=0.36, peak_bytes=100, planned_bytes=95),
        {"label": "QLoRA r16 (nf4)", "skipped": "no room"},
        contender(page.PEFT, 100.0),
    ]
    facts = {"device": "NVIDIA H200", "rehearsal": False}
    laws = {"one": {"apart": 0.3, "most": 0.2, "holds": Measured(0.3, 0.2).holds}}
    text = page.page({"facts": facts, "laws": laws, "bases": {"B": contenders}, "constants": {"utilisation": 0.7}})
    for expected in (
        "1.20 × PEFT (wanted ≥ 1.30: **missed**)",
        "plan off by +11 %: **missed**",
        "waits at x.py:3: **missed**",
        "0.96 of the even pack (wanted ≥ 0.95: reached)",
        "0.36 of the peak (wanted ≥ 0.35: reached)",
        "plan off by -5 %: reached",
        "left out: no room",
        "**broken**",
    ):
        assert expected in text


@pytest.mark.parametrize(("name", "total"), [("Qwen/Qwen3-0.6B", 596049920), ("Qwen/Qwen3-8B", 8190735360)])
def test_what_is_drawn_is_the_published_model(name: str, total: int) -> None:
    model = Drawn(name).model(torch.device("meta"))
    assert sum(weight.numel() for weight in model.parameters()) == total
    assert Drawn(name).shapes.total == total
