"""The data of docs/findings/2026-11-28-unembedding.md."""

from __future__ import annotations

from benchmarks.new_tokens import rows


def test_people_of_the_test_are_not_trained_on_and_the_data_are_the_same_every_time() -> None:
    train, test = rows()
    assert (len(train), len(test)) == (2400, 160)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert rows() == (train, test)
    assert all(row["completion"].startswith("Result <") for row in (*train, *test))
