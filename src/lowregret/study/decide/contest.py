"""What a comparison that stops when it is decided trains next: records in, trials out. Pure and torch-free.

Trials climb rungs: a fifth of their steps, half of them, all. At the first each method's search finds its best rate so
far, and LoRAs whose loss is by more than the tolerance above that of the best LoRA are left out. At the second stand
the best rate of whoever is left and the rates below it, since longer runs want lower rates. To the end go the best rate
of the best LoRA and of full fine-tuning. Where the regret lies then says what else can change the decision: of a low
regret only a better rate of full fine-tuning can make a high one, of a high regret only a better rate, or another LoRA,
a low one. Seeds are added one at a time, and the verdict is looked at after each (`analysis.spending`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lowregret.analysis.decided import judged_records
from lowregret.analysis.learning_rate import SEARCH_SEED, best_rate
from lowregret.analysis.spending import ERROR, look_error
from lowregret.analysis.tolerance import tolerance_of
from lowregret.runs.decision import Decision, LeftOut, Look
from lowregret.runs.records import TrialRecord
from lowregret.spec import CompareSpec, FullFT, LoRA, TrialSpec
from lowregret.study.decide.rungs import Curves, as_of, best_loss, by_loss
from lowregret.study.search import LIMIT, next_trials

MOST_LORAS = 2
"""That go beyond a rung."""
_USUAL_SEARCH = 5


@dataclass(frozen=True)
class Ask:
    """Trials to train."""

    trials: tuple[TrialSpec, ...]
    until: int | None
    """A step; to their end when None."""


@dataclass(frozen=True)
class Judge:
    """A verdict to look at."""

    seeds: int
    error: float
    spec: CompareSpec
    """Of the two methods between which it is decided."""
    records: tuple[TrialRecord, ...]
    """What the verdict is of."""


@dataclass(frozen=True)
class Contest:
    """A comparison as far as it has come."""

    spec: CompareSpec
    priors: Mapping[str, float]
    records: Sequence[TrialRecord]
    curves: Curves
    """Of all trials that there are."""
    base_loss: float
    rungs: tuple[int, ...]
    looks: tuple[Look, ...] = ()

    @property
    def pilots_done(self) -> bool:
        """Whether every search has come to the first rung's end."""
        return not self._search(self._methods, self.rungs[0])

    def next(self) -> Ask | Judge | None:
        """What is to be done; None when it is decided, or all that could decide it has been done.

        Whatever is asked for has not been trained so far, so this comes to an end.
        """
        if self.looks and (self.looks[-1].ruling != "inconclusive" or self.looks[-1].seeds >= self.spec.seeds):
            return None
        if pilots := self._search(self._methods, self.rungs[0]):
            return Ask(tuple(pilots), self.rungs[0])
        for step, before in zip(self.rungs[1:-1], self.rungs, strict=False):
            climbing: list[FullFT | LoRA] = [self.spec.reference, *(lora for lora, _ in self._kept(before)[0])]
            if halfway := [trial for method in climbing for trial in self._climb(method, before, step)]:
                return Ask(tuple(halfway), step)
        if ends := self._ends():
            return Ask(tuple(ends), None)
        seeds = self.looks[-1].seeds + 1 if self.looks else 2
        lora = self._leader
        if lora is None or not by_loss(self._at(self.last), self.spec.reference.name):
            return None
        if others := self._others((self.spec.reference, lora), seeds):
            return Ask(tuple(others), None)
        spent = sum(look.error for look in self.looks)
        return self._judge(lora, seeds, look_error(seeds, self.spec.seeds, spent))

    def last_judged(self) -> Judge | None:
        """What the last look was at, with the error that there is for it now; None before one."""
        lora = self._leader
        if not self.looks or lora is None:
            return None
        return self._judge(lora, self.looks[-1].seeds, self.looks[-1].ruling_error)

    @property
    def last(self) -> int:
        """Steps of a whole trial."""
        return self.rungs[-1]

    def supports(self, ruling: str, lora: str) -> bool:
        """Whether the search that a verdict rests on is complete: of a low regret that of full fine-tuning, of a high
        one that of LoRA."""
        if ruling == "inconclusive":
            return False
        needed = self.spec.reference if ruling == "low_regret" else self._method(lora)
        return not self._search([needed], self.last)

    def decision(self) -> Decision:
        """How it was decided, as far as it is."""
        each = _USUAL_SEARCH if self.spec.learning_rates == "auto" else len(self.spec.learning_rates)
        taken = {
            r.id: max([0, r.steps if r.status != "running" else 0, *self.curves.get(r.id, {})]) for r in self.records
        }
        return Decision(
            error=ERROR,
            looks=self.looks,
            rungs=self.rungs,
            left_out=tuple(self._left_out()),
            bound=self._bound(),
            steps=sum(taken.values()),
            usual_steps=len(self.spec.methods) * (each + self.spec.seeds - 1) * self.last,
        )

    @property
    def _methods(self) -> list[FullFT | LoRA]:
        return [self.spec.reference, *(method for method in self.spec.methods if isinstance(method, LoRA))]

    def _method(self, name: str) -> FullFT | LoRA:
        return next(method for method in self.spec.methods if method.name == name)

    @cached_property
    def _views(self) -> dict[int, list[TrialRecord]]:
        return {step: as_of(self.records, self.curves, step, self.last) for step in self.rungs}

    def _at(self, step: int) -> list[TrialRecord]:
        return self._views[step]

    def _search(self, methods: Sequence[FullFT | LoRA], step: int) -> list[TrialSpec]:
        """What is missing for a best rate with its neighbours at a step."""
        asked = self.spec.model_copy(update={"methods": tuple(methods), "seeds": 1, "prune": None})
        view = [record for record in self._at(step) if record.seed == SEARCH_SEED]
        if step == self.rungs[0]:  # pilots are searched among, not stopped before
            view = [r.model_copy(update={"status": "running"}) if r.status == "pruned" else r for r in view]
        return next_trials(asked, self.priors, view)

    def _margin(self, view: Sequence[TrialRecord]) -> float:
        """By how much a LoRA's loss may lie above the best LoRA's: the tolerance, of what is learned by then."""
        full = best_loss(view, self.spec.reference.name)
        if self.spec.tolerance_of == "loss":
            return self.spec.tolerance * full
        learned = self.base_loss - full
        return self.spec.tolerance * learned if learned > 0 else math.inf

    def _kept(self, step: int) -> tuple[list[tuple[LoRA, float]], list[tuple[LoRA, str]]]:
        """(the LoRAs that go beyond a rung, with their losses there, the best first; those left out, and why).

        Of those within the margin the best and the largest, since what a LoRA can hold is not felt at first.
        """
        here = self._candidates(step)
        view = self._at(step)
        found = sorted(((best_loss(view, lora.name), lora) for lora in here), key=lambda pair: pair[0])
        found = [(loss, lora) for loss, lora in found if math.isfinite(loss)]
        if not found:
            return [], []
        margin = self._margin(view)
        near = [(lora, loss) for loss, lora in found if loss <= found[0][0] + margin]
        largest = max(near, key=lambda pair: self._size(pair[0]))
        kept = near[:MOST_LORAS]
        if largest not in kept:
            kept = [*kept[:-1], largest]
        names = {lora.name for lora, _ in kept}
        out = [
            (lora, f"at step {step} its loss was {loss - found[0][0]:.4f} nats above that of {found[0][1].name}")
            for loss, lora in found
            if lora.name not in names
        ]
        return kept, out

    def _candidates(self, step: int) -> list[LoRA]:
        place = self.rungs.index(step)
        if place == 0:
            return [method for method in self.spec.methods if isinstance(method, LoRA)]
        return [lora for lora, _ in self._kept(self.rungs[place - 1])[0]]

    def _size(self, lora: LoRA) -> int:
        return max((r.trainable_parameters for r in self.records if r.method == lora.name), default=0)

    def _climb(self, method: FullFT | LoRA, before: int, step: int) -> list[TrialSpec]:
        """The best rate at the rung before, then the rates below it for as long as the next lower one is better."""
        return self._lead(method, before, step) or self._lower(method, self._at(step))

    def _lower(self, method: FullFT | LoRA, view: Sequence[TrialRecord]) -> list[TrialSpec]:
        """The next rate below the best of a view, where that has not been tried there."""
        rate = best_rate([record for record in view if record.method == method.name]).learning_rate
        lower = None if rate is None else self._below(method, rate)
        if lower is None:
            return []
        trial = TrialSpec(method=method, learning_rate=lower, seed=SEARCH_SEED)
        there = next((record for record in view if record.spec == trial), None)
        return [] if there is not None and there.status != "pruned" else [trial]

    def _lead(self, method: FullFT | LoRA, before: int, step: int) -> list[TrialSpec]:
        """The best trial of the rung before, where it has not come to this one; where it diverged, the next best."""
        there = {record.spec: record.status for record in self._at(step) if record.seed == SEARCH_SEED}
        for record in by_loss(self._at(before), method.name):
            status = there[record.spec]
            if status == "pruned":
                return [record.spec]
            if status == "finished":
                return []
        return []

    def _below(self, method: FullFT | LoRA, rate: float) -> float | None:
        if self.spec.learning_rates != "auto":
            return max((each for each in self.spec.learning_rates if each < rate), default=None)
        return rate / 2 if rate / 2 >= self.priors[method.name] * 2.0**-LIMIT else None

    def _ends(self) -> list[TrialSpec]:
        """To the end: the leaders, and the rates that can still change the decision."""
        before = self.rungs[-2]
        kept = [lora for lora, _ in self._kept(before)[0]]
        if not kept:
            return []
        if first := [t for method in (self.spec.reference, kept[0]) for t in self._lead(method, before, self.last)]:
            return first
        view = self._at(self.last)
        full, regret = best_loss(view, self.spec.reference.name), self._regret()
        lora = self._leader
        if regret is None or lora is None:
            return []
        seeds = self.looks[-1].seeds + 1 if self.looks else 2
        low = regret <= (tolerance_of(self.spec, full, self.base_loss - full) or 0.0)
        if not low and (others := [t for method in kept[1:] for t in self._lead(method, before, self.last)]):
            return others
        both = seeds >= self.spec.seeds or bool(self.looks)
        needed: list[FullFT | LoRA] = [self.spec.reference] if both or low else []
        return self._search([*needed, lora] if both or not low else needed, self.last)

    @property
    def _leader(self) -> LoRA | None:
        """The LoRA of the lowest loss at the end."""
        view = self._at(self.last)
        kept = [lora for lora, _ in self._kept(self.rungs[-2])[0]]
        there = [lora for lora in kept if by_loss(view, lora.name)]
        return min(there, key=lambda lora: best_loss(view, lora.name), default=None)

    def _regret(self) -> float | None:
        """As the last look had it, else by the search's seed."""
        if self.looks and self.looks[-1].regret is not None:
            return self.looks[-1].regret
        view, lora = self._at(self.last), self._leader
        full = best_loss(view, self.spec.reference.name)
        return None if lora is None or math.isinf(full) else best_loss(view, lora.name) - full

    def _others(self, methods: Sequence[FullFT | LoRA], seeds: int) -> list[TrialSpec]:
        """The seeds that are missing at both best rates."""
        ended = {r.spec for r in self.records if r.status in ("finished", "diverged", "failed")}
        view, found = self._at(self.last), []
        for method in methods:
            rate = best_rate([record for record in view if record.method == method.name]).learning_rate
            if rate is not None:
                found += [TrialSpec(method=method, learning_rate=rate, seed=seed) for seed in range(1, seeds)]
        return [trial for trial in found if trial not in ended]

    def _judge(self, lora: LoRA, seeds: int, error: float) -> Judge:
        pair = (lora, self.spec.reference)
        names = {method.name for method in pair}
        return Judge(
            seeds=seeds,
            error=error,
            spec=self.spec.model_copy(update={"methods": pair}),
            records=tuple(judged_records(self.records, names, seeds)),
        )

    def _left_out(self) -> list[LeftOut]:
        found = [
            LeftOut(method=method.name, reason="the regret of LoRA is against another full fine-tuning")
            for method in self.spec.methods
            if isinstance(method, FullFT) and method != self.spec.reference
        ]
        for step in self.rungs[:-1]:
            found += [LeftOut(method=lora.name, reason=why) for lora, why in self._kept(step)[1]]
        leader = self._leader
        rest = [lora for lora, _ in self._kept(self.rungs[-2])[0]]
        found += [
            LeftOut(method=lora.name, reason=f"{leader.name} was ahead of it")
            for lora in rest
            if leader is not None and lora != leader
        ]
        return found

    def _bound(self) -> Literal["above", "below"] | None:
        lora = self._leader
        if not self.looks or lora is None:
            return None
        if self._search([self.spec.reference], self.last):
            return "below"
        return "above" if self._search([lora], self.last) else None
