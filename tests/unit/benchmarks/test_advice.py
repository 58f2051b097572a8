"""Advised against found: the command on the committed records, and what each reader makes of a table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from benchmarks.advice import rates, resources
from benchmarks.advice.__main__ import main
from benchmarks.advice.advised import Setting
from benchmarks.advice.losses import of_cells
from benchmarks.advice.page import page
from benchmarks.advice.row import QUANTITIES, Row, summary
from benchmarks.advice.settings import RESULTS, cells, committed

from lowregret.plan.resources.cost import run_cost
from lowregret.plan.shapes.lookup import find_model

HERE = Path(__file__).parents[2]
SETTING = Setting("tiny", 8, 400)


def trial(method: str, rate: float, loss: float | None, seed: int = 0, status: str = "finished") -> dict[str, Any]:
    return {"method": method, "learning_rate": rate, "seed": seed, "status": status, "loss": loss}


def test_the_command_prints_every_quantity_of_the_committed_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole = {each["quantity"]: each for each in found["summary"] if each["source"] == "all"}
    assert whole.keys() == QUANTITIES.keys()
    assert all(each["rows"] > 0 for each in whole.values())
    assert all(whole[name]["advised"] == whole[name]["rows"] for name in whole.keys() - {"regret", "learning rate"})
    bounds = [row for row in found["rows"] if row["found"] is None]  # where it is known at most what destroys
    assert whole["learning rate"]["rows"] - whole["learning rate"]["advised"] == len(bounds) == 6
    destroying = [row for row in found["rows"] if row["destroys"] is not None]
    assert len(destroying) > len(bounds)
    assert all(row["advised"] < row["destroys"] for row in destroying)
    unseen = [row for row in found["rows"] if row["source"].endswith("(unseen_rates.csv)")]
    assert len(unseen) == 50
    assert not any(row["fitted"] for row in unseen)
    assert len(found["rows"]) == sum(each["rows"] for each in whole.values())
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"## {name.capitalize()}" in printed for name in QUANTITIES)


def test_the_committed_page_has_a_summary_of_every_quantity() -> None:
    written = (RESULTS / "advice.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| {name} \|", written, re.MULTILINE) for name in QUANTITIES)


def test_a_row_says_how_far_off_it_is() -> None:
    rate = Row("learning rate", "a", "b", 2e-4, 1e-4, 5e-5, 3e-4, destroys=2e-4)
    assert (rate.off, rate.held, rate.destroyed) == (2.0, True, True)
    assert Row("learning rate", "a", "b", 1.9e-4, 1e-4, destroys=2e-4).destroyed is False
    assert Row("learning rate", "a", "b", 2e-4, 4e-4, 5e-5, 3e-4).held is False
    assert Row("regret", "a", "b", 0.11, 0.08).off == pytest.approx(0.03)
    assert (Row("regret", "a", "b", None, 0.08).off, Row("memory", "a", "b", 1.0, 2.0).held) == (None, None)
    assert [Row("method", "a", "b", "full", found).off for found in ("full", "LoRA")] == [1.0, 0.0]


def test_a_summary_takes_factors_whichever_way_and_keeps_the_side_of_the_farthest() -> None:
    rows = [Row("seconds", "a", "b", advised, 1.0) for advised in (2.0, 0.25, 1.0)]
    found = summary("seconds", "all", rows)
    assert (found.median, found.worst, found.advised) == (pytest.approx(2.0), 0.25, 3)
    regrets = [Row("regret", "a", "b", advised, 0.1, 0.0, high) for advised, high in ((0.2, 0.3), (0.0, 0.05))]
    found = summary("regret", "all", [*regrets, Row("regret", "a", "b", None, 0.1)])
    assert (found.rows, found.advised, found.held, found.judged) == (3, 2, 1, 2)
    assert found.median == pytest.approx(0.1)
    assert summary("method", "all", [Row("method", "a", "b", "full", "LoRA")]).median == 0
    assert summary("rank", "all", []).median is None


def test_a_search_ends_between_rates_that_did_worse_stopped_ones_among_them() -> None:
    trials = [trial("lora:4", 1e-3, None, status="pruned"), trial("lora:4", 2e-3, 0.4)]
    trials += [trial("lora:4", 2e-3, 0.6, seed=1), trial("lora:4", 4e-3, 0.7, status="pruned")]
    trials += [trial("full", rate, loss) for rate, loss in ((1e-4, 0.5), (2e-4, 0.4), (4e-4, 0.3))]
    trials += [trial("lora:1", 1e-3, 0.9), trial("lora:1", 2e-3, 0.8)]
    lora, full = cells("a", "b", SETTING, trials, base=2.0)
    assert (lora.best, lora.optimum, lora.bracketed) == (2e-3, 2e-3, True)
    assert lora.loss == pytest.approx(0.5)
    assert (full.best, full.bracketed) == (4e-4, False)
    assert len(list(rates.of_cells([lora, full]))) == 1


def test_the_optimum_is_a_parabola_s_bottom_between_the_neighbours_and_not_of_rewards() -> None:
    trials = [trial("full", rate, loss) for rate, loss in ((1e-4, 0.5), (2e-4, 0.3), (4e-4, 0.4))]
    (found,) = cells("a", "", SETTING, trials)
    assert 2e-4 < found.optimum < 4e-4
    rewarded = Setting("tiny", 8, 60, objective="rl", group_size=8, max_tokens=80)
    level = [trial("full", rate, loss) for rate, loss in ((1e-4, -0.5), (2e-4, -0.9), (4e-4, -0.9), (8e-4, -0.1))]
    (by_reward,) = cells("a", "", rewarded, level)
    assert by_reward.optimum == 2e-4
    (row,) = rates.of_cells([by_reward])
    assert row.destroys == 8e-4


def test_method_rank_and_regret_are_shares_of_what_full_fine_tuning_learns() -> None:
    def searched(method: str, loss: float) -> list[dict[str, Any]]:
        return [trial(method, rate, loss + more) for rate, more in ((1e-3, 0.1), (2e-3, 0.0), (4e-3, 0.1))]

    trials = [*searched("full", 1.0), *searched("lora:1", 1.2), *searched("lora:4", 1.04), *searched("lora:16", 1.0)]
    data = Setting("tiny", 8, 400, data="builtin:biographies:size=32")
    found = list(of_cells(cells("a", "b", data, trials, base=2.0)))
    regrets = [row.found for row in found if row.quantity == "regret"]
    assert regrets == pytest.approx([0.2, 0.04, 0.0])
    (method,) = (row for row in found if row.quantity == "method")
    assert method.found == "LoRA"
    ranks = [row.found for row in found if row.quantity == "rank"]
    assert ranks in ([4.0], [])  # none where full fine-tuning is advised
    lost = [*searched("full", 1.0), *searched("lora:16", 1.2)]
    (method,) = (r for r in of_cells(cells("a", "b", data, lost, base=2.0)) if r.quantity == "method")
    assert method.found == "full"
    without_data = list(of_cells(cells("a", "b", SETTING, trials, base=2.0)))
    assert {row.quantity for row in without_data} == {"regret"}
    assert not list(of_cells(cells("a", "b", data, trials)))  # the base's loss is not known


def test_what_several_studies_of_a_source_have_counts_once() -> None:
    """Rates and regrets; what each chooses is among its own methods."""

    def searched(method: str, loss: float) -> list[dict[str, Any]]:
        return [trial(method, rate, loss + more) for rate, more in ((1e-3, 0.1), (2e-3, 0.0), (4e-3, 0.1))]

    data = Setting("tiny", 8, 400, data="builtin:biographies:size=32")
    first = list(cells("a", "ranks", data, [*searched("full", 1.0), *searched("lora:4", 1.2)], base=2.0))
    second = [*searched("full", 1.0), *searched("lora:4", 1.2), *searched("lora:16", 1.0)]
    both = [*first, *cells("a", "layers", data, second, base=2.0)]
    assert [row.case.rpartition(", ")[2] for row in rates.of_cells(both)] == ["full", "lora:4", "lora:16"]
    rows = list(of_cells(both))
    assert [row.found for row in rows if row.quantity == "regret"] == pytest.approx([0.2, 0.0])
    assert [row.found for row in rows if row.quantity == "method"] == ["full", "LoRA"]
    elsewhere = [*first, *cells("b", "ranks", data, second, base=2.0)]
    assert len(list(rates.of_cells(elsewhere))) == 5, "another source's trainings are its own"


def test_every_committed_table_of_trials_has_cells() -> None:
    sources = {cell.source for cell in committed()}
    assert sources >= {"studies_full", "tiny_studies", "studies_quick", "gsm8k_smollm2", "smollm2_rates"}


def test_peft_s_two_adapters_and_full_fine_tuning_are_told_apart() -> None:
    """All runs but those of the comparison's first two days, in which every experiment took a third longer."""
    seconds = [row for row in resources.of_peft() if row.source == "PEFT on a GPU" and "2025-06-17" not in row.case]
    assert len(seconds) == 15
    assert all(abs(row.off - 1) < 0.15 for row in seconds if row.off is not None)
    advised = {row.case.split(", ")[1]: float(row.advised) for row in seconds if row.advised is not None}
    assert advised["lora:10:mlp"] > 1.05 * advised["lora:32:re:(q|v)_proj"]
    assert advised["full"] > 2 * advised["lora:10:mlp"]
    stays = [row for row in resources.of_peft() if row.quantity == "memory"]
    assert all(row.off is not None and abs(row.off - 1) < 0.06 for row in stays)


def test_the_machine_of_the_checks_gives_the_times_that_the_plan_gave_there() -> None:
    lines = (RESULTS / "plan_check.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "×" in line and "lora:16:" in line]
    assert len(table) == 8
    for name, method, size, *_, planned, _off in table:
        rows, length = (int(part) for part in size.split(" × "))
        shapes = find_model(resources.REAL if name == "real" else name)
        cost = run_cost(shapes, resources.method_of(method), resources.CHECKED_ON, rows=rows, steps=1, length=length)
        assert cost.step_seconds == pytest.approx(float(planned), rel=0.003)


def test_studies_of_a_folder_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--runs", str(HERE / "fixtures" / "runs_15ef6b8")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(row["source"] == "--runs" for row in found["rows"])


def test_public_sweeps_of_a_folder_are_taken(tmp_path: Path) -> None:
    (tmp_path / rates.REWARDS).write_text(
        "model,method,learning_rate,steps,group_size,prompts_a_step,final_accuracy,best_accuracy\n"
        "Qwen/Qwen3-1.7B,full,1e-6,50,8,32,0.2,0.2\nQwen/Qwen3-1.7B,full,2e-5,50,8,32,0.9,0.9\n"
        "Qwen/Qwen3-1.7B,full,5e-5,50,8,32,0.8,0.8\nQwen/Qwen3-1.7B,full,5e-5,50,8,32,0.0,0.8\n"
    )
    (row,) = rates.of_folder(tmp_path)
    assert (row.found, row.destroys) == (2e-5, 5e-5)


def test_a_folder_without_anything_ends_with_2_and_says_what_was_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    assert rates.SWEEP in capsys.readouterr().err
    assert main(["--runs", str(tmp_path)]) == 2
    assert "no trials" in capsys.readouterr().err
    (tmp_path / rates.SWEEP).write_text("model,learning_rate\n")
    assert main(["--data", str(tmp_path)]) == 2
    assert "lora_rank" in capsys.readouterr().err


def test_a_long_source_shows_its_farthest_rows() -> None:
    many = [Row("seconds", "a", f"case {number}", 1.0 + number, 1.0) for number in range(70)]
    printed = page(many)
    assert "case 69 " in printed
    assert "case 1 " not in printed
    assert "and 60 more" in printed
    low = [Row("learning rate", "a", f"case {number}", 1.0 / (1 + number), 1.0) for number in range(70)]
    assert "case 69 " in page(low)
    regrets = [Row("regret", "a", f"case {number}", number / 100, 0.0) for number in range(70)]
    assert "case 69 " in page(regrets)
