"""The search for the best learning rates of a group of trials: records in, next trials out. Pure and torch-free.

All rates lie on one lattice, 1e-3 · 2^k. The LoRA of the middle rank searches first, from the prior. The best rate
moves little with rank (SCIENCE 3.2), so every other LoRA starts beside what the first one found and needs three
trials more often than not. A search ends when the best rate has been compared with its neighbours on the lattice on
both sides; a parabola through the three then gives the best rate to a fraction of a step (`analysis.fits`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from lowregret.analysis.learning_rate import SEARCH_SEED, as_of, middle, plateau, search_loss
from lowregret.runs.records import TrialRecord
from lowregret.spec import FullFT, GroupSpec, LoRA, TrialSpec
from lowregret.study.search import RATE_BOUND, WIDTH, Reach, has_ended, is_cut_short, reach, trials_of

LATTICE = 1e-3
NARROW = 1
"""Exponents between the first rates of a search that has another method's result to start from; else `WIDTH`."""
LIMIT = 14
"""Steps of the lattice from the start beyond which nothing is tried: such a search stays without a bracket."""
_TYPICAL_RANGE = 6  # four good rates, and one on each side that is not
Curve = Mapping[int, float]
"""Step → held-out loss."""
Curves = Callable[[TrialRecord], Curve]


def lattice_rate(exponent: int) -> float:
    """1e-3 · 2^exponent: scaling by a power of two is exact, so the same exponent gives the same float everywhere."""
    return math.ldexp(LATTICE, exponent)


def nearest_exponent(rate: float) -> int:
    """Of the lattice's rate nearest to this one."""
    return round(math.log2(rate / LATTICE))


def group_trials(
    spec: GroupSpec, priors: Mapping[str, float], records: Sequence[TrialRecord], curves: Curves
) -> list[TrialSpec]:
    """The next trials of a group, to be run in any order or together; [] when it is complete.

    Args:
        priors: method name → learning rate to start from.
        records: the group's trials so far, in any order; failed ones are not asked for again.
        curves: the held-out losses of a trial, for groups that must be bracketed at several steps.
    """
    by_id = {record.id: record for record in records}
    ended = [record for record in records if has_ended(record, by_id)]
    found: dict[TrialSpec, None] = {}
    anchor = anchor_of(spec.methods)
    of_method: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in ended:
        of_method[record.method].append(record)
    for method in spec.methods:
        own = of_method[method.name]
        if spec.learning_rates != "search":
            wanted = trials_of(method, spec.learning_rates, range(spec.seeds))
        else:
            start = _start(spec, method, anchor, priors, of_method[anchor.name], curves)
            wanted = _searched(spec, method, start, own, curves)
        done = {record.spec for record in ended if not is_cut_short(spec, record, own)}
        found |= dict.fromkeys(trial for trial in wanted if trial not in done)
    return list(found)


def anchor_of(methods: Sequence[FullFT | LoRA]) -> FullFT | LoRA:
    """The method that searches first: the one of the middle rank, the first of equals."""
    ranks = sorted(method.rank for method in methods if isinstance(method, LoRA))
    if not ranks:
        return methods[0]
    middle = ranks[len(ranks) // 2]
    return next(method for method in methods if isinstance(method, LoRA) and method.rank == middle)


def group_estimate(spec: GroupSpec, records: Sequence[TrialRecord]) -> int:
    """A guess of how many trials the whole group takes; never below those recorded."""
    if spec.learning_rates != "search":
        return max(len(spec.learning_rates) * len(spec.methods) * spec.seeds, len(records))
    at = {"best": 1, "bracket": 3, "range": _TYPICAL_RANGE}[spec.seeds_at]
    each = max(4, at) + len(spec.bracket_at) // 2 + (spec.seeds - 1) * at
    return max(each * len(spec.methods) + 1, len(records))


def bracket(losses: Mapping[int, float]) -> tuple[int, int, int] | None:
    """(below, best, above): the best exponent and its neighbours on the lattice, once both have been tried.

    None before that, and when every rate diverged. Of a plateau the middle is the best, as when it is judged.
    """
    if not losses or math.isinf(min(losses.values())):
        return None
    best = _best(losses)
    return (best - 1, best, best + 1) if {best - 1, best + 1} <= losses.keys() else None


def _best(losses: Mapping[int, float]) -> int:
    return middle(plateau(losses))


def losses_at(records: Iterable[TrialRecord], step: int | None, curves: Curves) -> dict[int, float]:
    """Exponent → held-out loss of the search's trials: at their end, or after `step`; infinite where there is none."""
    found: dict[int, float] = {}
    for record in records:
        if record.seed != SEARCH_SEED:
            continue
        loss = search_loss(record if step is None else as_of(record, step, curves(record)))
        if loss is not None:
            found[nearest_exponent(record.learning_rate)] = loss
    return found


def _start(
    spec: GroupSpec,
    method: FullFT | LoRA,
    anchor: FullFT | LoRA,
    priors: Mapping[str, float],
    own: Sequence[TrialRecord],
    curves: Curves,
) -> tuple[int, int] | None:
    """(the exponent to start at, the distance of the first two others), by the anchor's `own` trials; None while the
    first search is under way.
    """
    prior = nearest_exponent(priors[method.name])
    if method.name == anchor.name:
        return prior, WIDTH if spec.start_from is None else NARROW
    known = bracket(losses_at(own, spec.bracket_at[-1] if spec.bracket_at else None, curves))
    if known is not None:
        return known[1], NARROW
    start = (nearest_exponent(priors[anchor.name]), WIDTH)
    stuck = not _searched(spec, anchor, start, own, curves)
    return (prior, WIDTH) if stuck else None


def _searched(
    spec: GroupSpec, method: FullFT | LoRA, start: tuple[int, int] | None, own: Sequence[TrialRecord], curves: Curves
) -> list[TrialSpec]:
    """What one method's search asks for, and after it the other seeds."""
    if start is None:
        return []
    tried = {record.spec for record in own}
    brackets: set[int] = set()
    for step in spec.bracket_at or (None,):
        losses = losses_at(own, step, curves)
        trials = _untried(method, _next_exponents(losses, *start, reach(spec)), tried)
        if trials:  # one that failed says nothing and is not asked for again: its side stays open
            return trials
        found = bracket(losses)
        if found is None:
            continue
        if step is None and (short := [record.spec for record in own if is_cut_short(spec, record, own)]):
            return short
        rates: tuple[int, ...] = found if spec.seeds_at == "bracket" else found[1:2]
        if spec.until_gain is not None:
            ends = range_ends(losses, _start_loss(own, curves), spec.until_gain)
            if trials := _untried(method, [*_beyond(losses, ends, start[0]), *_between(losses, ends)], tried):
                return trials
            if spec.seeds_at == "range":
                low, high = (min(losses) if ends[0] is None else ends[0], max(losses) if ends[1] is None else ends[1])
                rates = tuple(k for k in losses if low <= k <= high)
        brackets.update(rates)
    seeds = [seed for seed in range(spec.seeds) if seed != SEARCH_SEED]
    return trials_of(method, [lattice_rate(k) for k in sorted(brackets)], seeds)


def _untried(method: FullFT | LoRA, exponents: Iterable[int], tried: Collection[TrialSpec]) -> list[TrialSpec]:
    rates = (rate for rate in map(lattice_rate, exponents) if 0 < rate < RATE_BOUND)
    return [trial for trial in trials_of(method, rates) if trial not in tried]


def range_ends(losses: Mapping[int, float], start: float, share: float) -> tuple[int | None, int | None]:
    """The nearest exponents below and above the best whose gain is less than `share` of its; None where none is.

    `start` is the loss before training, of which a gain is what is left over. Where the best has gained nothing, no
    rate is good.
    """
    best = _best(losses)
    enough = share * (start - losses[best])
    poor = [k for k, loss in losses.items() if k != best and not start - loss >= enough]
    return max((k for k in poor if k < best), default=None), min((k for k in poor if k > best), default=None)


def _start_loss(own: Iterable[TrialRecord], curves: Curves) -> float:
    """Before the first step, where trials are evaluated then; infinite where they are not."""
    return next((loss for record in own if (loss := curves(record).get(0)) is not None), math.inf)


def _beyond(losses: Mapping[int, float], ends: tuple[int | None, int | None], centre: int) -> list[int]:
    """What to try next on the sides where every rate is good, in factors of 4."""
    low, high = min(losses) - WIDTH, max(losses) + WIDTH
    return [
        *([low] if ends[0] is None and low >= centre - LIMIT else []),
        *([high] if ends[1] is None and high <= centre + LIMIT else []),
    ]


def _between(losses: Mapping[int, float], ends: tuple[int | None, int | None]) -> list[int]:
    """What to try next where the last good rate and the first that is not are more than a factor of 2 apart."""
    found = []
    for end, side in zip(ends, (1, -1), strict=True):
        if end is not None:
            good = min((k for k in losses if (k - end) * side > 0), key=lambda k: abs(k - end))
            found += [(end + good) // 2] if abs(end - good) > 1 else []
    return found


def _next_exponents(losses: Mapping[int, float], centre: int, distance: int, going: Reach) -> list[int]:
    first = [centre + k for k in going.first(distance) if centre + k not in losses]
    if first:
        return first
    low, high = min(losses), max(losses)
    if math.isinf(min(losses.values())):
        return [low - WIDTH] if low > centre - LIMIT else []
    best, tied = _best(losses), plateau(losses)
    if tied[-1] == high:
        return [high + min(distance, going.up)] if high < centre + LIMIT else []
    if tied[0] == low:
        return [low - distance] if low > centre - LIMIT else []
    missing = [k for k in (best - 1, best + 1) if k not in losses]
    below, above = max(k for k in losses if k < best), min(k for k in losses if k > best)
    # One at a time, the more promising side first: whether the other is worth a trial depends on it.
    return sorted(missing, reverse=losses[above] < losses[below])[:1]
