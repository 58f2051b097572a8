"""Laws of a method's spelling: what `name` prints, `parse_method` reads back; a wrong one names the nearest choice."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lowregret.errors import SpecError
from lowregret.spec import DataSpec, FullFT, LoRA, Method, TrainSpec, TrialSpec, build
from lowregret.spec.method import TARGET_GROUPS

METHOD: TypeAdapter[FullFT | LoRA] = TypeAdapter(Method)

ranks = st.integers(1, 65536)
alphas = st.one_of(st.just(32.0), st.integers(1, 4096).map(float), st.sampled_from([0.5, 1.5, 12.25]))
dropouts = st.one_of(st.just(0.0), st.sampled_from([0.05, 0.1, 1 / 3, 1e-7]))
groups = st.lists(st.sampled_from(TARGET_GROUPS), min_size=1, max_size=5)


def compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


regexes = st.text("abq_.*|()[]+:=\\d$^ ", min_size=1, max_size=20).filter(compiles).map(lambda text: [f"re:{text}"])


@given(
    rank=ranks,
    alpha=st.one_of(alphas, st.floats(1e-6, 1e6)),
    dropout=st.one_of(dropouts, st.floats(0, 1, exclude_max=True)),
    targets=st.one_of(groups, regexes),
)
def test_a_lora_reads_its_own_name_back(rank: int, alpha: float, dropout: float, targets: list[str]) -> None:
    method = LoRA(rank=rank, alpha=alpha, dropout=dropout, targets=tuple(targets))
    assert METHOD.validate_python(method.name) == method


def test_full_reads_its_own_name_back() -> None:
    assert METHOD.validate_python(FullFT().name) == FullFT()


@given(rank=ranks, targets=groups)
def test_order_and_repetition_of_targets_do_not_matter(rank: int, targets: list[str]) -> None:
    spelled = METHOD.validate_python(f"lora:{rank}:{'+'.join(targets)}")
    assert spelled == LoRA(rank=rank, targets=tuple(sorted(set(targets))))


@given(
    text=st.one_of(
        st.text(max_size=12),
        st.text("lorafu:16=+", max_size=12),
        st.text(max_size=5).map("lora:4:".__add__),
        st.lists(st.sampled_from(["alpha=2", "dropout=.5", "mlp", "alpha=", "re:a=b"])).map(
            lambda parts: ":".join(["lora:4", *parts])
        ),
    )
)
def test_any_text_is_a_method_or_a_validation_error(text: str) -> None:
    try:
        found = METHOD.validate_python(text)
    except ValidationError:
        return
    assert METHOD.validate_python(found.name) == found


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("lora:16", LoRA(rank=16, alpha=32, targets=("attention", "mlp"))),
        ("lora:1:all", LoRA(rank=1)),
        ("lora:8:alpha=16", LoRA(rank=8, alpha=16)),
        ("lora:8:alpha=16:mlp", LoRA(rank=8, alpha=16, targets=("mlp",))),
        ("lora:16:dropout=0.1", LoRA(rank=16, dropout=0.1)),
        ("lora:16:alpha=8:dropout=0.1:mlp", LoRA(rank=16, alpha=8, dropout=0.1, targets=("mlp",))),
        ("lora:16:dropout=0.1:alpha=8", LoRA(rank=16, alpha=8, dropout=0.1)),
        ("lora:4:dropout=0.1:re:a=b:c", LoRA(rank=4, dropout=0.1, targets=("re:a=b:c",))),
        ("lora:4:mlp+unembedding", LoRA(rank=4, targets=("mlp", "unembedding"))),
        ("lora:4:re:q_proj|v_proj", LoRA(rank=4, targets=("re:q_proj|v_proj",))),
    ],
)
def test_the_spellings_of_the_documentation(spelled: str, meant: LoRA) -> None:
    assert METHOD.validate_python(spelled) == meant


def train_spec(method: str) -> TrainSpec:
    return build(TrainSpec, {"model": "tiny", "data": {"train": "rows.jsonl"}, "method": method})


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("lroa:16", ["method", "unknown method 'lroa:16'", "lora:RANK"]),
        ("lora", ["unknown method 'lora'"]),
        ("lora:x", ["unknown method 'lora:x'"]),
        ("lora:0", ["rank", "greater than or equal to 1", "got 0"]),
        ("lora:4:alpha=big", ["alpha", "number", "'big'"]),
        ("lora:4:alpha=-1", ["alpha", "greater than 0"]),
        ("lora:4:dropout=1", ["dropout", "less than 1"]),
        ("lora:4:dropout=-0.1", ["dropout", "greater than or equal to 0"]),
        ("lora:4:droput=0.1", ["unknown option 'droput'", "Did you mean 'dropout'?", "alpha"]),
        ("lora:4:alpha=8:alpha=9", ["gives alpha twice"]),
        ("lora:4:mlp:alpha=8", ["targets", "'mlp:alpha=8'"]),
        ("lora:4:atention", ["targets", "Did you mean 'attention'?", "unembedding"]),
        ("lora:4:re:(", ["targets", "does not compile"]),
    ],
)
def test_a_wrong_method_names_the_field_and_the_choices(method: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        train_spec(method)
    for word in words:
        assert word in str(caught.value)


rates = st.floats(1e-7, 1e2).map(lambda rate: float(f"{rate:.6g}"))
trials = st.builds(
    TrialSpec,
    method=st.one_of(
        st.just(FullFT()),
        st.builds(LoRA, rank=ranks, alpha=alphas, dropout=dropouts, targets=st.one_of(groups, regexes)),
    ),
    learning_rate=rates,
    seed=st.integers(0, 99),
)


@given(one=trials, other=trials)
def test_trials_that_differ_have_different_folders(one: TrialSpec, other: TrialSpec) -> None:
    assume(one != other)
    assert one.id != other.id


@given(trial=trials)
def test_a_trial_id_is_a_plain_folder_name(trial: TrialSpec) -> None:
    assert re.fullmatch(r"[\w.+-]{1,100}", trial.id)
    assert trial.id not in (".", "..")


def test_two_regexes_have_two_folders() -> None:
    one, other = (LoRA(rank=4, targets=(f"re:q_proj{c}v_proj",)) for c in "|.")
    assert TrialSpec(method=one, learning_rate=1e-3).id != TrialSpec(method=other, learning_rate=1e-3).id


def test_the_fields_of_a_prompt_go_together() -> None:
    with pytest.raises(SpecError, match="name both or neither"):
        build(DataSpec, {"train": "rows.jsonl", "prompt_field": "question"})
