"""The claims about mixtures, of studies whose truth is known."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.lookup import find_model
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import Claim, judge_study
from lowregret.questions.registry import make_question
from lowregret.spec import GroupSpec, LoRA, TrialSpec

MATCHED = {"per-total": 101, "shared-outer": 99, "full-rank-each": 102}
"""The made-up adapters have a hundred parameters a rank, whatever the convention."""


LEARNED = 1.98
"""Of the made-up base's 2 nats: examples differ by a share of what is left, and little of that is noise."""


def judged(fake: ModuleType, folder: Path, worse: dict[str, float], **changed: Any) -> dict[str, Claim]:
    """Claims of a study in which all methods end alike but for what is added to some by name."""

    def loss(group: GroupSpec, trial: TrialSpec, step: int) -> float:
        off = abs(trial.learning_rate / 1e-3 - 1)
        noise = random.Random(trial.id).gauss(0, 1e-5)
        learned: float = LEARNED * step / (group.steps or 1)
        return 2.0 - learned + 0.01 * off + worse.get(trial.method.name, 0.0) + noise

    fields = {
        "kind": "moe",
        "steps": 16,
        "rank": 100,
        "attention_rank": 120,
        "equal_parameters": MATCHED,
        "tolerance": 0.2,
    }
    fake.make(folder, make_question(fields | changed), loss)
    return {claim.statement.key: claim for claim in judge_study(read_evidence(folder)).claims}


def test_what_the_post_says_holds_where_it_is_so(fake_studies: ModuleType, tmp_path: Path) -> None:
    worse = {"lora:120:attention": 0.5, "lora:100:attention": 0.8, "lora:100:per-total:linear": 0.3}
    found = judged(fake_studies, tmp_path, worse)
    assert {key: claim.ruling for key, claim in found.items()} == dict.fromkeys(found, "holds")
    assert found["moe-attention"].estimate is not None
    assert found["moe-attention"].estimate.value == pytest.approx(0.5 / LEARNED, rel=0.02)


@pytest.mark.parametrize(
    ("key", "worse"),
    [
        ("moe-attention", {"lora:100:experts": 0.5}),
        ("moe-all", {"lora:100:experts": 0.5}),
        ("moe-regret", {"lora:100:linear": 0.5}),
        (
            "moe-per-active:shared-outer",
            {"lora:100:linear": 0.5, "lora:101:per-total:linear": 0.5, "lora:102:full-rank-each:linear": 0.5},
        ),
        ("moe-undivided", {"lora:100:linear": 0.5}),
        ("moe-per-total", {"lora:100:linear": 0.5}),
    ],
)
def test_what_is_not_so_does_not_hold(
    fake_studies: ModuleType, tmp_path: Path, key: str, worse: dict[str, float]
) -> None:
    found = judged(fake_studies, tmp_path, worse)[key]
    assert found.ruling == "does not hold"


def test_adapters_that_are_not_as_large_decide_nothing(fake_studies: ModuleType, tmp_path: Path) -> None:
    unlike = {"equal_parameters": MATCHED | {"shared-outer": 110}, "attention_rank": 94}
    found = judged(fake_studies, tmp_path, {"lora:94:attention": 0.5}, **unlike)
    shared = found["moe-per-active:shared-outer"]
    assert shared.ruling == found["moe-attention"].ruling == "open"
    assert "lora:100:linear has 0.91 times the parameters of lora:110:shared-outer:linear" in shared.note
    assert "Give other ranks" in found["moe-attention"].note
    larger = judged(fake_studies, tmp_path / "more", {"lora:200:attention": 0.5}, attention_rank=200)
    assert larger["moe-attention"].ruling == "holds", "attention may have more"


def test_a_convention_without_a_result_leaves_the_comparison_with_it_open(
    fake_studies: ModuleType, tmp_path: Path
) -> None:
    key = "moe-per-active:full-rank-each"
    assert judged(fake_studies, tmp_path, {})[key].ruling == "holds"
    for file in tmp_path.glob("groups/main.lora/trials/lora-102-full-rank-each-linear_*/trial.json"):
        file.write_text(file.read_text().replace('"finished"', '"diverged"'))
    claims = {claim.statement.key: claim for claim in judge_study(read_evidence(tmp_path)).claims}
    assert claims[key].ruling == "open"
    assert "lora:100:linear and lora:102:full-rank-each:linear cannot be compared" in claims[key].note
    assert claims["moe-per-active:shared-outer"].ruling == "holds"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"equal_parameters": {"per-total": 40}}, "give a rank to each of per-total, shared-outer, full-rank-each"),
        ({"attention_rank": 16}, "attention_rank: 16 is `rank` itself"),
        ({"equal_parameters": MATCHED | {"per-total": 16}}, "per-total: 16 is `rank` itself"),
    ],
)
def test_a_comparison_of_a_method_with_itself_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make_question({"kind": "moe", **changed})


def test_the_ranks_of_the_recipe_make_equal_adapters_on_its_base() -> None:

    question: Any = make_question({"kind": "moe"})
    shapes = find_model(question.model)

    def size(lora: LoRA) -> int:
        return sum(lora_parameters(shapes, lora.rank, lora.targets, lora.convention).values())

    assert size(question.attention(question.attention_rank)) == size(question.experts) == 245_760
    assert size(question.both) == 311_296
    for lora in question.at_equal_parameters().values():
        assert size(lora) == pytest.approx(311_296, rel=0.021)
