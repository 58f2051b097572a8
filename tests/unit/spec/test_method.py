"""Laws of a method's spelling: what `name` prints, `parse_method` reads back; a wrong one names the nearest choice."""

from __future__ import annotations

import re
import warnings
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lowregret.errors import SpecError
from lowregret.spec import DataSpec, FullFT, LoRA, Method, TrainSpec, TrialSpec, build
from lowregret.spec.method import TARGET_GROUPS, Init, Quantisation, Scaling

METHOD: TypeAdapter[FullFT | LoRA] = TypeAdapter(Method)

ranks = st.integers(1, 65536)
alphas = st.one_of(st.just(32.0), st.integers(1, 4096).map(float), st.sampled_from([0.5, 1.5, 12.25]))
dropouts = st.one_of(st.just(0.0), st.sampled_from([0.05, 0.1, 1 / 3, 1e-7]))
groups = st.lists(st.sampled_from(TARGET_GROUPS), min_size=1, max_size=5)
OPTIONS = (
    "alpha=2 dropout=.5 alpha= lora+=16 a_rate=2 init_scale=2 lora+= pissa olora orthogonal rslora dora nf4 mlp re:a=b"
)


def compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


regexes = st.text("abq_.*|()[]+:=\\d$^ ", min_size=1, max_size=20).filter(compiles).map(lambda text: [f"re:{text}"])


factors = st.one_of(st.just(1.0), st.sampled_from([0.25, 2.0, 16.0]))


@st.composite
def loras(draw: Any, alpha: Any = alphas, dropout: Any = dropouts, factor: Any = factors) -> LoRA:
    """Any LoRA that the spec allows."""
    init = draw(st.sampled_from(get_args(Init)))
    return LoRA(
        rank=draw(ranks) * (2 if init == "orthogonal" else 1) % 65536 or 2,
        alpha=draw(alpha),
        dropout=draw(dropout),
        targets=tuple(draw(st.one_of(groups, regexes))),
        init=init,
        scaling=draw(st.sampled_from(get_args(Scaling))),
        init_scale=draw(factor) if init == "uniform" else 1,
        a_rate=draw(factor),
        b_rate=draw(factor),
        dora=draw(st.booleans()),
        quantisation=draw(st.sampled_from(get_args(Quantisation))),
    )


@given(
    method=loras(
        st.one_of(alphas, st.floats(1e-6, 1e6)),
        st.one_of(dropouts, st.floats(0, 1, exclude_max=True)),
        st.one_of(factors, st.floats(1e-6, 1e6)),
    )
)
def test_a_lora_reads_its_own_name_back(method: LoRA) -> None:
    assert METHOD.validate_python(method.name) == method
    assert METHOD.validate_python(method.model_dump(mode="json")) == method


@given(method=loras())
def test_a_variant_that_is_not_asked_for_leaves_no_trace(method: LoRA) -> None:
    """Records and names of a plain LoRA are those of before there were variants."""
    plain = {"kind", "rank", "alpha", "dropout", "targets"}
    dumped = method.model_dump(mode="json")
    assert plain <= dumped.keys()
    for field in dumped.keys() - plain:
        assert dumped[field] != LoRA.model_fields[field].default
    assert LoRA(rank=4).model_dump(mode="json").keys() == plain
    assert LoRA(rank=4, alpha=8).scale == 2
    assert LoRA(rank=4, alpha=8, scaling="alpha/sqrt(r)").scale == 4


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
        st.lists(st.sampled_from(OPTIONS.split())).map(lambda parts: ":".join(["lora:4", *parts])),
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
        ("lora:16", LoRA(rank=16, alpha=32, targets=("attention", "mlp", "unembedding"))),
        ("lora:16:linear", LoRA(rank=16, targets=("attention", "mlp"))),
        ("lora:16:unembedding+linear", LoRA(rank=16)),
        ("lora:16:dora:linear", LoRA(rank=16, dora=True, targets=("attention", "mlp"))),
        ("lora:1:all", LoRA(rank=1)),
        ("lora:8:alpha=16", LoRA(rank=8, alpha=16)),
        ("lora:8:alpha=16:mlp", LoRA(rank=8, alpha=16, targets=("mlp",))),
        ("lora:16:dropout=0.1", LoRA(rank=16, dropout=0.1)),
        ("lora:16:alpha=8:dropout=0.1:mlp", LoRA(rank=16, alpha=8, dropout=0.1, targets=("mlp",))),
        ("lora:16:dropout=0.1:alpha=8", LoRA(rank=16, alpha=8, dropout=0.1)),
        ("lora:4:dropout=0.1:re:a=b:c", LoRA(rank=4, dropout=0.1, targets=("re:a=b:c",))),
        ("lora:4:mlp+unembedding", LoRA(rank=4, targets=("mlp", "unembedding"))),
        ("lora:4:re:q_proj|v_proj", LoRA(rank=4, targets=("re:q_proj|v_proj",))),
        ("lora:16:pissa", LoRA(rank=16, init="pissa")),
        ("lora:16:olora:mlp", LoRA(rank=16, init="olora", targets=("mlp",))),
        ("lora:16:orthogonal", LoRA(rank=16, init="orthogonal")),
        ("lora:16:rslora", LoRA(rank=16, scaling="alpha/sqrt(r)")),
        ("lora:16:lora+=16", LoRA(rank=16, b_rate=16)),
        ("lora:16:dora", LoRA(rank=16, dora=True)),
        ("lora:16:dora:lora+=4:alpha=8:pissa", LoRA(rank=16, alpha=8, init="pissa", b_rate=4, dora=True)),
        ("lora:16:init_scale=2:a_rate=2:lora+=.5", LoRA(rank=16, init_scale=2, a_rate=2, b_rate=0.5)),
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
        (
            "lora:4:pisa",
            ["unknown target 'pisa'", "variant", "dora, full-rank-each, nf4, olora", "rslora, shared-outer"],
        ),
        ("lora:4:mlp+pissa", ["'pissa' is a variant, no target", "lora:16:pissa"]),
        ("lora:4:pissa:olora", ["gives init twice"]),
        ("lora:4:dora:dora", ["gives dora twice"]),
        ("lora:4:lora=16", ["unknown option 'lora'", "Did you mean 'lora+'?", "a_rate", "init_scale"]),
        ("lora:4:lora+=0", ["b_rate", "greater than 0"]),
        ("lora:4:a_rate=1e7", ["a_rate", "less than or equal to 1000000"]),
        ("lora:3:orthogonal", ["orthogonal needs an even rank, not 3"]),
        ("lora:4:pissa:init_scale=2", ["init_scale is of use with the init uniform only, not with pissa"]),
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
        loras(),
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
    assert re.fullmatch(r"[\w.+-]{1,200}", trial.id)
    assert trial.id not in (".", "..")


def test_two_regexes_have_two_folders() -> None:
    one, other = (LoRA(rank=4, targets=(f"re:q_proj{c}v_proj",)) for c in "|.")
    assert TrialSpec(method=one, learning_rate=1e-3).id != TrialSpec(method=other, learning_rate=1e-3).id


def test_the_fields_of_a_prompt_go_together() -> None:
    with pytest.raises(SpecError, match="name both or neither"):
        build(DataSpec, {"train": "rows.jsonl", "prompt_field": "question"})


@pytest.mark.parametrize("spelled", ["full:nf4", "full:nf4:mlp"])
def test_a_quantised_base_is_not_for_full_fine_tuning(spelled: str) -> None:
    with pytest.raises(ValidationError, match=r"cannot be fully fine-tuned. Use full, or lora:RANK:nf4"):
        METHOD.validate_python(spelled)


def test_the_base_as_it_is_stands_in_no_name_and_no_record() -> None:
    plain, quantised = METHOD.validate_python("lora:16:linear"), METHOD.validate_python("lora:16:nf4:linear")
    assert plain.quantisation == FullFT().quantisation == "none"
    assert quantised.quantisation == "nf4"
    assert "quantisation" not in plain.model_dump()
    assert (plain.name, quantised.name) == ("lora:16:linear", "lora:16:nf4:linear")
