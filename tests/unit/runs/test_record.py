"""Every record: of any length, with the ends of its numbers, what is written is read again, or is not written."""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import lowregret
from lowregret import limits
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_record, write_json
from lowregret.runs.bank import RateCurve
from lowregret.runs.measured import Timing
from lowregret.runs.record import Record
from lowregret.runs.records import ExampleLosses, ExampleRewards, TrialRecord
from lowregret.runs.requests import Request
from lowregret.spec import LoRA, Spec, TrialSpec
from lowregret.strict_json import finite

TRIAL = TrialSpec(method=LoRA(rank=4), learning_rate=1e-3)
STEPS: dict[str, Any] = {"width": 64, "full_seconds": (1.0, 1.1), "full_bytes": 9.0, "lora_bytes": {}}
WHOLE: dict[type[Record], tuple[Record, ...]] = {
    Request: (Request(kind="stop", trial="a"), Request(kind="trial", spec=TRIAL), Request(kind="seed")),
    Timing: (Timing(**STEPS, lora_seconds={"4": (1.0, 5e-324)}, theory={"4": 1e308}),),
}
"""Of kinds whose fields must fit together."""
MANY = limits.LISTED + 1
FLOATS = (0.0, -0.0, 1.0, 1e-3, 0.1, 5e-324, 2.0**-1022, 1.7976931348623157e308, -1.7976931348623157e308)
NO_NUMBERS = (math.inf, -math.inf, math.nan)
INTEGERS = (0, 1, 7, 10**15, 2**53 + 1, 10**30)
TEXTS = ("", "a", "é 𝄞\n\t\u2028", 'a "b" \\')
NAMES = ("0" * 19 + "-" + "a" * 16, "lora-4_lr0.001_seed0")
"""Of a request, and of a trial."""
DRAWN = 20


def below(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


def of_the_package(kind: type[Any]) -> list[type[Any]]:
    """All classes of the package below one of its own."""
    for module in pkgutil.walk_packages(lowregret.__path__, "lowregret."):
        if module.name.split(".")[1] in ("analysis", "questions", "runs", "spec", "watch"):
            importlib.import_module(module.name)
    importlib.import_module("lowregret.train.checkpoint")
    found = {each for each in below(kind) if each.__module__.startswith("lowregret.")}
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


RECORDS = of_the_package(Record)


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_what_a_run_leaves_is_no_spec() -> None:
    """A spec's lists have an end, for somebody has written them; a record's are as long as the run has made them."""
    assert len(RECORDS) > 30
    asked = {each.__module__ for each in of_the_package(Spec) if each.__module__.split(".")[1] != "spec"}
    others = {module for module in asked if not module.endswith((".spec", ".question"))}
    assert others <= {"lowregret.questions.registry", "lowregret.watch.control"}, "the base of records is Record"


def bound(info: list[Any], kind: Any, name: str, value: float) -> float:
    """A bound of a field; `value` where it has none."""
    return next((getattr(each, name) for each in info if isinstance(each, kind)), value)


def fits(info: list[Any], value: float) -> bool:
    """Whether a number keeps a field's bounds."""
    least, most = bound(info, Ge, "ge", value), bound(info, Le, "le", value)
    above, under = bound(info, Gt, "gt", -math.inf), bound(info, Lt, "lt", math.inf)
    return least <= value <= most and (value > above or above == -math.inf) and (value < under or under == math.inf)


class Draw:
    """Values at the ends of what fields take; `more` are floats that fields without bounds get too."""

    def __init__(self, seed: int, more: tuple[float, ...] = ()) -> None:
        self.random, self.more = Random(seed), more

    def record(self, kind: type[Record]) -> Record:
        if kind in WHOLE:
            return self.random.choice(WHOLE[kind])
        more = self.more if kind.model_config.get("allow_inf_nan") is not False else ()
        inside = Draw(self.random.randrange(10**9), more)
        return kind(**{name: inside.value(each.annotation, each.metadata) for name, each in kind.model_fields.items()})

    def value(self, annotation: Any, info: list[Any]) -> Any:
        origin, inside = get_origin(annotation), get_args(annotation)
        if hasattr(annotation, "__metadata__"):
            told = [part for each in inside[1:] for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
            return self.value(inside[0], [*info, *told])
        if origin in (Union, UnionType):
            return self.value(self.random.choice(inside), info)
        if origin is Literal:
            return self.random.choice(inside)
        if origin is tuple and inside[-1:] != (...,):
            return tuple(self.value(each, []) for each in inside)
        if origin is tuple:
            least = next((each.min_length for each in info if hasattr(each, "min_length")), 0)
            return tuple(self.value(inside[0], []) for _ in range(max(least, self.random.randrange(3))))
        if origin is list:
            return [self.value(inside[0], []) for _ in range(self.random.randrange(3))]
        if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
            return {self.value(inside[0], []): self.value(inside[1], []) for _ in range(self.random.randrange(3))}
        return self.plain(annotation, info)

    def plain(self, kind: Any, info: list[Any]) -> Any:
        if kind is TrialSpec:
            return TRIAL
        if isinstance(kind, type) and issubclass(kind, Record):
            return self.record(kind)
        if kind is float:
            return self.random.choice([*(each for each in FLOATS if fits(info, each)), *(() if info else self.more)])
        if kind is int:
            return self.random.choice([each for each in INTEGERS if fits(info, each)])
        if kind is str and any(getattr(each, "pattern", None) for each in info):
            pattern = next(each.pattern for each in info if getattr(each, "pattern", None))
            return NAMES[0] if pattern.startswith(r"^\d") else NAMES[1]
        choice: dict[Any, tuple[Any, ...]] = {bool: (True, False), NoneType: (None,), str: TEXTS, Any: (None, 1, "a")}
        return self.random.choice(choice[kind])


def kept(path: Path, written: Record) -> BaseModel:
    write_json(path, written)
    return read_record(type(written), path)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_is_read_as_it_was_written(kind: type[Record], tmp_path: Path) -> None:
    for seed in range(DRAWN):
        written = Draw(seed).record(kind)
        assert kept(tmp_path / "record.json", written) == written


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_none_is_written_that_cannot_be_read(kind: type[Record], tmp_path: Path) -> None:
    """What JSON has no number for is null; where a field must have a number nothing is written, and it is named."""
    path = tmp_path / "record.json"
    for seed in range(DRAWN):
        written = Draw(seed, NO_NUMBERS * 3).record(kind)
        plain = finite(written.model_dump(mode="json"))
        try:
            found = kept(path, written)
        except RecordsError as error:
            said = str(error)
            assert re.search(r"not written.*: field '", said), said
            assert not path.exists()
        else:
            assert found.model_dump(mode="json") == plain
        path.unlink(missing_ok=True)


def test_a_record_has_no_end(tmp_path: Path) -> None:
    """10,001 of everything: held-out examples, evaluations, files."""
    losses = tuple(n / 7 for n in range(MANY))
    written: list[Record] = [
        ExampleLosses(nll_sums=losses, tokens=(1,) * MANY),
        ExampleRewards(rewards=losses, samples=1, tokens=(1,) * MANY),
        RateCurve(learning_rate=1e-3, losses=dict.fromkeys(range(MANY), 1.0)),
        TrialRecord.of(TRIAL, status="finished", shipped={f"{n}.safetensors": "0" for n in range(MANY)}),
    ]
    for each in written:
        assert kept(tmp_path / "record.json", each) == each
