"""SIGKILL at any moment costs nothing but time: the same command goes on and ends with the same numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

STUDY = (
    "compare --model tiny --data builtin:arithmetic:size=64 --methods lora:2,full --learning-rates 1e-4,1e-3 --seeds 1 "
    "--steps 5 --batch-size 4 --max-train 24 --max-eval 8 --checkpoint-seconds 0 --replies 0 --quiet"
).split()


def test_a_study_killed_three_times_ends_as_one_that_was_not(kill_resume: Any, tmp_path: Path) -> None:
    life = kill_resume.finish(tmp_path / "whole", STUDY)
    expected = kill_resume.numbers(tmp_path / "whole")
    generator = random.Random(0)
    out = tmp_path / "killed"
    kills = 0
    for moment in sorted(kill_resume.moments(3, life, generator)):  # each resume has less to do than the one before
        kills += kill_resume.kill_at(out, moment, STUDY) is not None
    assert kills >= 2
    kill_resume.finish(out, STUDY)
    found = kill_resume.numbers(out)
    assert found.keys() == expected.keys()
    assert found == expected


def test_a_study_with_two_workers_killed_twice_ends_as_one_that_was_not(kill_resume: Any, tmp_path: Path) -> None:
    from benchmarks.faults.__main__ import STUDY as STUDY_OF_TWO

    life = kill_resume.finish(tmp_path / "whole", STUDY_OF_TWO)
    draw = random.Random(0)
    shares = [0.3 + 0.15 * part + 0.15 * draw.random() for part in range(2)]
    kills = [kill_resume.kill_at(tmp_path / "killed", life * share, STUDY_OF_TWO) for share in shares]
    assert any(kills)  # its workers see that it is gone
    kill_resume.finish(tmp_path / "killed", STUDY_OF_TWO)
    assert kill_resume.numbers(tmp_path / "killed") == kill_resume.numbers(tmp_path / "whole")


def test_the_comparison_sees_a_last_bit(kill_resume: Any, tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text('{"regret_nats": 0.1, "seconds": 1, "reasons": ["It took longer."]}')
    one = kill_resume.numbers(tmp_path)
    (tmp_path / "verdict.json").write_text('{"regret_nats": 0.1, "seconds": 2, "reasons": ["It took longer."]}')
    assert kill_resume.numbers(tmp_path) == one
    (tmp_path / "verdict.json").write_text('{"regret_nats": 0.10000000000000002, "reasons": ["It took longer."]}')
    assert kill_resume.numbers(tmp_path) != one


def test_the_moments_cover_the_whole_life(kill_resume: Any) -> None:
    found = sorted(kill_resume.moments(20, 10.0, random.Random(1)))
    assert all(part / 2 <= moment < (part + 1) / 2 for part, moment in enumerate(found))
