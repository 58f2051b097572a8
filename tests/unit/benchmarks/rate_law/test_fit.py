"""The law's constants from a sweep, and what the fit makes of bad tables."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.rate_law.fit import calibrated, constants, fit, gaps, in_sample, left_out, main, refit
from benchmarks.rate_law.sweep import Cell, Parabola, fit_parabola, read_sweep

from lowregret.plan.rates.law import LAW, RANK_LIMIT, Law, group_of
from lowregret.plan.shapes.lookup import find_model

SHARED = Path(__file__).parents[5] / "shared"
SWEEP = SHARED / "data" / "lora_lr_sweep_tulu3.csv"
YARDSTICK = SHARED / "tools" / "lr_yardstick.py"
needs_sweep = pytest.mark.skipif(not SWEEP.exists(), reason="the public sweep does not lie beside the project")

MODELS = ["Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"]
TRUE = Law(3e-4, 0.25, -0.1, {"llama": 0.2, "qwen3": -0.2}, 0.5, 0.5, (1e9, 1e12))
HEADER = "model,lora_rank,learning_rate,test_nll"


def write_sweep(path: Path, models: Sequence[str] = MODELS) -> Path:
    """A sweep whose loss is an exact parabola about the rate of TRUE."""
    lines = [HEADER]
    for model in models:
        shapes = find_model(model)
        for rank in (1, 4, 16, 64):
            optimum = TRUE.log_rate(group_of(shapes.family), shapes.total, rank)
            for rate in (4e-5, 1e-4, 3e-4, 1e-3, 3e-3):
                loss = 0.5 * (1 + 0.006 * (math.log(rate) - optimum) ** 2)
                lines.append(f"{model},{rank},{rate},{loss!r}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    return read_sweep(write_sweep(tmp_path / "sweep.csv"))


def test_a_law_without_noise_is_found_again(cells: list[Cell]) -> None:
    found = fit(cells, (1e-9, 1e-9))
    assert found.rank_power == pytest.approx(TRUE.rank_power, abs=1e-6)
    assert found.size_power == pytest.approx(TRUE.size_power, abs=1e-6)
    assert found.offsets == pytest.approx(TRUE.offsets, abs=1e-6)
    assert found.level == pytest.approx(TRUE.level, rel=1e-6)
    assert max(gaps(cells, in_sample(cells, found))) < 1e-9


def test_a_heavier_penalty_shrinks_the_families_and_their_size(cells: list[Cell]) -> None:
    laws = [fit(cells, (penalty, penalty)) for penalty in (0.01, 1.0, 100.0, 1e12)]
    for stronger, weaker in zip(laws[1:], laws, strict=False):
        assert all(abs(stronger.offsets[family]) < abs(weaker.offsets[family]) for family in ("llama", "qwen3"))
        assert abs(stronger.size_power) < abs(weaker.size_power) + 0.05
    assert all(abs(offset) < 1e-6 for offset in laws[-1].offsets.values())


def test_what_is_left_out_is_not_seen(cells: list[Cell]) -> None:
    """Moving one model's optima must not change what is said of that model."""
    moved = [
        Cell(c.model, c.rank, c.family, c.hidden_size, c.total, fit_parabola_at(c, 1.0))
        if c.model == "Llama-3.2-1B"
        else c
        for c in cells
    ]
    for group, held in ((model_of, "Llama-3.2-1B"), (family_of, "llama")):
        for cell, before, after in zip(cells, left_out(cells, group), left_out(moved, group), strict=True):
            if group(cell) == held:
                assert before == after
    assert in_sample(cells, fit(cells)) != in_sample(moved, fit(moved))


def model_of(cell: Cell) -> str:
    return cell.model


def family_of(cell: Cell) -> str:
    return cell.family


def fit_parabola_at(cell: Cell, shift: float) -> Parabola:
    at = cell.parabola.optimum + shift
    found = fit_parabola({x: 0.5 + 0.003 * (x - at) ** 2 for x in (at - 1, at + 0.1, at + 1)})
    assert found is not None
    return found


def test_a_family_left_out_has_no_offset(cells: list[Cell]) -> None:
    only_llama = fit([cell for cell in cells if "lama" in cell.model])
    assert list(only_llama.offsets) == ["llama"]
    assert only_llama.log_rate("qwen3", 8e9, 1) == pytest.approx(
        math.log(only_llama.level)
        + only_llama.size_power * math.log(0.8)
        - only_llama.rank_power * math.log(1 + 1 / RANK_LIMIT)
    )


def test_the_widths_hold_nine_of_ten_optima(cells: list[Cell]) -> None:
    away = [0.05 * number * (-1) ** number for number in range(1, len(cells) + 1)]
    known = [cell.parabola.optimum + moved for cell, moved in zip(cells, away, strict=True)]
    unknown = [cell.parabola.optimum + 2 * moved for cell, moved in zip(cells, away, strict=True)]
    law = calibrated(cells, known, unknown, fit(cells))
    assert sum(abs(moved) <= law.width + 1e-9 for moved in away) == 22  # of 24, and 21 are too few
    assert law.width_unknown == pytest.approx(2 * law.width)


def test_the_constants_are_python_that_gives_the_law_back() -> None:
    scope: dict[str, object] = {"Law": Law}
    exec(constants(LAW), scope)
    assert scope["LAW"] == LAW


def test_the_command_prints_a_table_and_the_constants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_sweep(tmp_path / "sweep.csv"))]) == 0
    printed = capsys.readouterr().out
    assert "| the law, leave one model out | " in printed
    assert "LAW = Law(\n" in printed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("model,lora_rank,test_nll\n", ["bad.csv:1:", "'learning_rate'"]),
        (
            f"{HEADER}\nQwen/Qwen3-8B,4,1e-4,0.5\nQwen/Qwen3-8B,4,fast,0.5\n",
            ["bad.csv:3:", "'learning_rate'", "'fast'"],
        ),
        (f"{HEADER}\nQwen/Qwen3-8B,0,1e-4,0.5\n", ["bad.csv:2:", "'lora_rank'"]),
        (f"{HEADER}\nQwen/Qwen3-8B,4,1e-4,nan\n", ["bad.csv:2:", "'test_nll'"]),
        (f"{HEADER}\nQwen/Qwen3-8B,4,1e-4\n", ["bad.csv:2:", "'test_nll'", "empty"]),
        (f"{HEADER}\nQwen/Qwen3-9B0,4,1e-4,0.5\n", ["bad.csv:2:", "'model'", "Qwen3"]),
        (f"{HEADER}\nQwen/Qwen3-8B,4,1e-4,0.5\n", ["bad.csv:", "three rates"]),
        ("", ["bad.csv:1:", "'model'"]),
    ],
)
def test_a_bad_table_names_line_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, wanted: list[str]
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    assert main([str(tmp_path / "bad.csv")]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in wanted), message


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a.csv", "b.csv"], ["missing.csv"]])
def test_a_wrong_call_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err


@needs_sweep
def test_the_committed_constants_are_those_of_the_public_sweep_and_reach_the_figure() -> None:
    cells = read_sweep(SWEEP)
    law, found = refit(cells)
    assert constants(law) == constants(LAW)
    away = {protocol.name: gaps(cells, protocol.predictions) for protocol in found}
    means = {name: sum(values) / len(values) for name, values in away.items()}
    assert means["the law, leave one model out"] <= 0.20
    assert max(away["the law, leave one model out"]) <= 1.5
    assert means["the law, leave one family out"] < min(means["the published formula"], means["constant 3e-4"])
    assert sum(gaps(cells, in_sample(cells, LAW))) / len(cells) < 0.1


@needs_sweep
def test_the_percentages_are_the_yardsticks() -> None:
    spec = importlib.util.spec_from_file_location("yardstick", YARDSTICK)
    assert spec is not None
    assert spec.loader is not None
    yardstick = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(yardstick)
    theirs, ours = yardstick.read_cells(SWEEP), {(c.model, c.rank): c.parabola for c in read_sweep(SWEEP)}
    assert {key for key, cell in theirs.items() if yardstick.given_away(cell, 1e-4) is not None} == set(ours)
    for key, parabola in ours.items():
        for rate in (3e-5, 2e-4, 1e-3, 5e-3):
            expected = yardstick.given_away(theirs[key], rate)
            assert parabola.given_away(math.log(rate)) == pytest.approx(expected, abs=1e-9)
