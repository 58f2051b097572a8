"""The capacity's cells on trials that its curve was not fitted on."""

from __future__ import annotations

from benchmarks.capacity import TRIALS, again, cells


def test_later_trials_have_the_same_cells_beside_what_is_expected() -> None:
    later = TRIALS.parents[1] / "tiny_studies" / "trials.csv"
    found = list(again(later))
    rows = [line for line in found if line.startswith(("| 32 ", "| 128 ", "| 512 "))]
    assert len(rows) == len(cells(later)) == 24
    lost = [float(row.split("|")[4]) > 1 for row in rows]
    above = next(line for line in found if "above 1 %" in line)
    assert abs(int(above.split(":")[1].split(",")[0]) - sum(lost)) <= 1, "1.0 is rounded"
    assert found[0] != next(iter(again(TRIALS))), "the fit is that of the trials named"
