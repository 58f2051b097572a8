"""The search for each method's best learning rate: records in, next trials out. Pure and torch-free.

Rates lie on the lattice prior · 2^k. The order in which trials are asked for depends on the records alone, so a study
that was killed goes on with the trials that an uninterrupted one would have run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lowregret.analysis.learning_rate import SEARCH_SEED, best_rate, search_loss
from lowregret.errors import SpecError
from lowregret.plan.resources.cost import SEARCH_TRIALS
from lowregret.runs.records import TrialRecord
from lowregret.spec import CompareSpec, FullFT, GroupSpec, LoRA, TrainingSpec, TrialSpec


@dataclass(frozen=True)
class Reach:
    """How a search without a bracket goes on, in exponents of 2."""

    sides: tuple[int, ...]
    """Where it looks first beside its start, in steps of its own width."""
    up: int
    """The most by which it goes up at a time."""
    down: int = 2

    def first(self, width: int) -> tuple[int, ...]:
        """Exponents to start with."""
        return (0, *(side * width for side in self.sides))


_WIDE, _CAREFUL = Reach((1, -1), up=2), Reach((-1,), up=1)
WIDTH = 2
"""Exponents between the first rates of a search: a factor of 4."""
LIMIT = 16
"""No rate beyond prior · 2^±16 is tried: a search that gets there stays without a bracket."""
RATE_BOUND = 1e3  # the spec's own bound on a learning rate


def reach(spec: TrainingSpec) -> Reach:
    """Trained by reward, a search starts low and goes up by factors of 2: a rate that is too high does not lose a
    little there, it destroys the policy (docs/findings/2026-11-29-rates-elsewhere.md)."""
    return _CAREFUL if spec.objective.kind == "rl" else _WIDE


def next_trials(spec: CompareSpec, priors: Mapping[str, float], records: Sequence[TrialRecord]) -> list[TrialSpec]:
    """The next trials of a study, to be run in any order or together; [] when it is complete.

    Every method goes its own way, in the spec's order here: its search, then the other seeds at the rate found. What
    comes next for it depends on its own trials that have ended, so whatever runs beside them changes nothing.
    Every trial that ended (finished, diverged, pruned or failed) has ended for good, but for one that was pruned by
    comparison with a trial that came to nothing; a running one is asked for again.

    Args:
        spec: the study.
        priors: method name → learning rate to start from; not used when the spec lists the rates.
        records: the study's trials so far, in any order.

    Raises:
        SpecError: a method has no usable prior.
    """
    found: dict[TrialSpec, None] = {}
    for method in spec.methods:
        own = {record.id: record for record in records if record.method == method.name}
        ended = [record for record in own.values() if has_ended(record, own)]
        done = {record.spec for record in ended}
        wanted = [trial for trial in _search(spec, method, priors, ended) if trial not in done]
        if not wanted:
            wanted = [record.spec for record in ended if is_cut_short(spec, record, ended)]
        if not wanted:
            wanted = [trial for trial in _other_seeds(spec, method, ended) if trial not in done]
        found |= dict.fromkeys(wanted)
    return list(found)


def has_ended(record: TrialRecord, own: Mapping[str, TrialRecord]) -> bool:
    """Whether a trial has ended for good: not if the better loss that stopped it belongs to one that then diverged, nor
    if it was a pilot that was put aside."""
    rival = own.get(record.pruned_by or "")
    hollow = record.status == "pruned" and rival is not None and rival.status in ("diverged", "failed")
    return record.status != "running" and not hollow and not record.put_aside


def next_to(spec: CompareSpec | GroupSpec, one: float, other: float) -> bool:
    """Whether two learning rates are neighbours: a factor of 2 apart, or with none between them of those listed."""
    if isinstance(spec.learning_rates, str):
        return one != other and max(one, other) <= 2 * min(one, other)
    low, high = sorted((one, other))
    return low < high and not any(low < rate < high for rate in spec.learning_rates)


def is_cut_short(spec: CompareSpec | GroupSpec, record: TrialRecord, own: Sequence[TrialRecord]) -> bool:
    """Whether a trial was pruned that now is the neighbour of its method's best rate: the bottom between the rates is
    read off what both neighbours end with, so it runs again, to its end."""
    if record.status != "pruned" or record.put_aside:
        return False
    best = best_rate(own).learning_rate
    return best is not None and next_to(spec, record.learning_rate, best)


def lattice_rate(prior: float, exponent: int) -> float:
    """prior · 2^exponent, with the prior rounded to 3 significant digits so that trial ids stay short.

    Scaling by a power of two is exact: the same exponent gives the same float everywhere.
    """
    return math.ldexp(float(f"{prior:.3g}"), exponent)


def describe(spec: CompareSpec) -> list[str]:
    """The rules of the search and of stopping early, in sentences for the report."""
    rewards = spec.objective.kind == "rl"
    if spec.learning_rates == "auto":
        sides = "a quarter of it" if rewards else "4 times more and less"
        factors = "by factors of 2 up and 4 down" if rewards else "in factors of 4"
        rules = [
            f"The search for each method starts at its prior learning rate and at {sides}, with seed 0.",
            "While no worse loss lies on one side of the best learning rate, the next rate outwards on that side is "
            f"tried, {factors}, up to a factor of 2^{LIMIT} from the prior; if every rate diverged, the search "
            "goes down.",
            "Once bracketed, rates a factor of 2 from the best are tried, on the side with the lower loss first, until "
            "the best has been compared with a neighbour at a factor of 2 on both sides.",
        ]
    else:
        listed = ", ".join(f"{rate:.6g}" for rate in spec.learning_rates)
        rules = [f"Each method was tried at exactly the listed learning rates, with seed 0: {listed}."]
    rules.append(
        "LoRA trials are trained together as far as memory allows and before those of full fine-tuning, each of which "
        "is trained alone; no method's search looks at another's."
    )
    rules.append(
        "A diverged trial counts as worse than every other; a failed trial counts for nothing and leaves its side "
        "open. Of equal losses the rate in the middle is the best."
    )
    if rewards:
        rules.insert(0, "The loss of a trial is minus its final held-out reward.")
    if spec.prune is None:
        rules.append("No trial is stopped early unless it diverges.")
    else:
        limit = f"{spec.prune:g} of reward" if rewards else f"{100 * spec.prune:g} %"
        rules.append(
            "A search trial is stopped early (pruned) when its held-out loss in the second half of its run exceeds "
            "the lowest that another search trial of the method, finished or still in training, had at the "
            f"same step by more than {limit}; it then counts as worse than every finished trial. If "
            "that other trial diverges later, the pruned one is run again. A neighbour of the best rate is never "
            "stopped early, and one that becomes its neighbour later is run again, to its end."
        )
    if spec.seeds > 1:
        which = "each method with a bracketed best learning rate" if spec.learning_rates == "auto" else "each method"
        rules.append(f"Then {which} is trained at that rate with seeds 1 to {spec.seeds - 1}.")
    return rules


@dataclass(frozen=True)
class Expected:
    """A guess at how many trials a method takes in all, those recorded among them."""

    searched: int
    others: int
    """With other seeds than the search's."""


def expected_trials(spec: CompareSpec, method: FullFT | LoRA, records: Sequence[TrialRecord]) -> Expected:
    """Of one method; never below those recorded."""
    own = [record for record in records if record.method == method.name]
    searched = sum(record.seed == SEARCH_SEED for record in own)
    others = len(own) - searched
    best = best_rate([record for record in own if record.status != "running"])
    if spec.learning_rates != "auto":
        expected = len(spec.learning_rates)
    elif others or _refined({record.learning_rate for record in own}, best.learning_rate):
        expected = searched
    else:
        expected = max(SEARCH_TRIALS, searched + (not best.bracketed))
    return Expected(max(expected, searched), max(spec.seeds - 1, others))


def total_estimate(spec: CompareSpec, records: Sequence[TrialRecord]) -> int:
    """A guess of how many trials the whole study takes, for a progress display; never below those recorded."""
    each = [expected_trials(spec, method, records) for method in spec.methods]
    return max(sum(one.searched + one.others for one in each), len(records))


def _search(
    spec: CompareSpec, method: FullFT | LoRA, priors: Mapping[str, float], ended: Sequence[TrialRecord]
) -> list[TrialSpec]:
    if spec.learning_rates != "auto":
        return trials_of(method, spec.learning_rates)
    prior = priors.get(method.name, math.nan)
    if not 0 < prior < RATE_BOUND:
        raise SpecError(
            f"learning_rates: no usable prior learning rate for {method.name} (got {prior:g}). "
            "Name the rates to try with --learning-rates."
        )
    ran = {record.learning_rate: record for record in ended if record.seed == SEARCH_SEED}
    lattice = {k: rate for k in range(-LIMIT, LIMIT + 1) if 0 < (rate := lattice_rate(prior, k)) < RATE_BOUND}
    tried = {k: ran[rate] for k, rate in lattice.items() if rate in ran}
    going = reach(spec)
    first = [k for k in going.first(WIDTH) if k in lattice and k not in tried]
    # One at a time after the start: whether the second neighbour is worth a trial depends on the first.
    following = first or [k for k in _outwards(tried, going) if k in lattice][:1] or _inwards(tried, lattice)
    return trials_of(method, (lattice[k] for k in following))


def _outwards(tried: Mapping[int, TrialRecord], going: Reach) -> list[int]:
    """The next exponents on the sides of the best that have no worse loss yet."""
    best = best_rate(list(tried.values()))
    above, below = max(tried) + going.up, min(tried) - going.down
    if best.learning_rate is None:
        diverged = any(search_loss(record) is not None for record in tried.values())
        return [below] if diverged else []  # when all failed, another rate will not help
    return [k for k, side in ((above, best.upper), (below, best.lower)) if side is None]


def _inwards(tried: Mapping[int, TrialRecord], lattice: Mapping[int, float]) -> list[int]:
    """The missing neighbour of a bracketed best at a factor of 2: the one that looks better, if there are two."""
    best = best_rate(list(tried.values()))
    if not best.bracketed:
        return []
    centre = next(k for k, record in tried.items() if record.learning_rate == best.learning_rate)
    missing = [k for k in (centre - 1, centre + 1) if k in lattice and k not in tried]
    losses = {k: loss for k, record in tried.items() if (loss := search_loss(record)) is not None}
    below, above = max(k for k in losses if k < centre), min(k for k in losses if k > centre)
    # The optimum leans towards the side that is less bad; a smaller rate is the safer guess when both are infinite.
    return sorted(missing, reverse=losses[above] < losses[below])[:1]


def _other_seeds(spec: CompareSpec, method: FullFT | LoRA, ended: Sequence[TrialRecord]) -> list[TrialSpec]:
    best = best_rate(ended)
    # Without a bracket the verdict is inconclusive anyway: a search spends nothing more on it.
    if best.learning_rate is None or not (best.bracketed or spec.learning_rates != "auto"):
        return []
    return trials_of(method, [best.learning_rate], [seed for seed in range(spec.seeds) if seed != SEARCH_SEED])


def trials_of(method: FullFT | LoRA, rates: Iterable[float], seeds: Sequence[int] = (SEARCH_SEED,)) -> list[TrialSpec]:
    """Of every rate with every seed: the search's when none is named."""
    return [TrialSpec(method=method, learning_rate=rate, seed=seed) for rate in rates for seed in seeds]


def _refined(rates: set[float], best: float | None) -> bool:
    return best is not None and {best / 2, best * 2} <= rates
