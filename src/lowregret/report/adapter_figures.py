"""The figures about adapters themselves: where, how much, at what cost, in which form, on which base."""

from __future__ import annotations

import math

from lowregret.analysis.evidence import FULL, Evidence
from lowregret.analysis.fits import exponential, mean
from lowregret.analysis.measures import log_ratios
from lowregret.analysis.measures_more import ROUNDING, distances, forgetting, stored_bits, time_ratios
from lowregret.report import words
from lowregret.report.plots import Axis, Reference, Series, curves, forest
from lowregret.report.reading import label
from lowregret.report.study_figures import FULL_NAME, NATS, Figure, named, u_curves
from lowregret.spec import LoRA, Method
from lowregret.spec.questions import InvarianceQuestion, VariantsQuestion

_RANKS = Axis("rank", log=True, ticks=[2.0**k for k in range(11)])


def layers(evidence: Evidence) -> list[Figure]:
    condition = evidence.conditions["main"]
    rows, by_target = [], dict[str, list[tuple[float, float, float | None, float | None]]]()
    for method in condition.methods:
        best, runs = condition.best(method.name), condition.at_best(method.name)
        if best is None or best.loss is None or not runs:
            continue
        rows.append((label(method), best.loss.value, best.loss.low, best.loss.high))
        if isinstance(method, LoRA):
            size = float(runs[0].record.trainable_parameters)
            by_target.setdefault(_where(method), []).append((size, best.loss.value, best.loss.low, best.loss.high))
    series = []
    for index, (target, found) in enumerate(by_target.items()):
        points = sorted((size, loss) for size, loss, _, _ in found)
        bars = [(s, low, high) for s, _, low, high in found if low is not None and high is not None]
        series.append(Series(target, points, index / max(len(by_target) - 1, 1), bars, dots=True))
    full = condition.best(FULL)
    lines = [Reference(full.loss.value, FULL_NAME)] if full is not None and full.loss is not None else []
    chart = curves(
        series,
        Axis("trainable parameters", log=True, format="~s"),
        NATS,
        "Held-out loss against trainable parameters, a line for each choice of matrices",
        references=lines,
    )
    caption = (
        "Each choice of matrices at its own best learning rates, mean over seeds with its 95 % interval, against its "
        "size: of two points one above the other, the lower one makes more of the same number of parameters. The post "
        "has attention alone clearly above the MLP alone, and adding attention to the MLP change little."
    )
    bars_chart = forest(rows, NATS.title, "Held-out loss of each choice of matrices")
    return [
        Figure("layers-parameters", "Which matrices, at matched parameters", chart, caption),
        Figure(
            "layers-losses",
            "Every choice",
            bars_chart,
            "The same losses one by one, full fine-tuning last: overlapping intervals are not told apart here.",
        ),
    ]


def _where(lora: LoRA) -> str:
    """Short enough for the end of a curve."""
    parts = list(lora.targets)
    if parts[:2] == ["attention", "mlp"]:
        parts = ["all", *parts[2:]]
    return " + ".join("head" if part == "unembedding" else part for part in parts)


def capacity(evidence: Evidence) -> list[Figure]:
    condition = evidence.conditions["facts"]
    total = condition.fact_bits or 0.0
    points, bars, references = [], [], [Reference(total, f"all {total:,.0f} bits of the facts")]
    for method in condition.methods:
        runs = condition.at_best(method.name)
        found = mean([stored_bits(run, total) for run in runs])
        if found is None or found.value <= 0:
            continue
        if not isinstance(method, LoRA):
            references.append(Reference(found.value, f"{FULL_NAME}: {found.value:,.0f} bits"))
            continue
        size = float(runs[0].record.trainable_parameters)
        points.append((size, found.value))
        if found.low is not None and found.high is not None and found.low > 0:
            bars.append((size, found.low, found.high))
    sizes = [size for size, _ in points] or [1.0]
    theory = [(size, min(2 * size, total)) for size in sorted({*sizes, max(min(sizes), min(total / 2, max(sizes)))})]
    ample = 2 * min(sizes) >= total  # the line would lie on that of all facts
    chart = curves(
        [
            Series("LoRA", points, 0.8, bars, dots=True),
            Series("2 bits a parameter", [] if ample else theory, None, dashed=True),
        ],
        Axis("trainable parameters of the adapter", log=True, format="~s"),
        Axis("bits of facts stored", log=True, format="~s"),
        "Bits stored against trainable parameters",
        references=references,
    )
    return [
        Figure(
            "capacity-bits",
            "Bits stored against parameters",
            chart,
            "Facts whose bits are known, met many times by adapters of rising rank. Stored: the bits of all facts "
            "minus what the held-out questions about each of them still cost. "
            + (
                "At 2 bits a parameter even the smallest adapter here has room for all of them."
                if ample
                else "The dashed line is 2 bits a parameter up to all that there is to know."
            ),
        )
    ]


def compute(evidence: Evidence) -> list[Figure]:
    series = []
    timings = sorted(evidence.timings, key=lambda found: found["width"])
    for index, timing in enumerate(timings):
        ratios, place = time_ratios(timing), index / max(len(timings) - 1, 1)
        points = [(float(rank), found.value) for rank, found in ratios.items()]
        bars = [
            (float(rank), found.low, found.high)
            for rank, found in ratios.items()
            if found.low is not None and found.high is not None
        ]
        series.append(Series(f"hidden {timing['width']}", points, place, bars, dots=True))
        theory = sorted((float(rank), float(value)) for rank, value in timing["theory"].items())
        series.append(Series("", theory, place, dashed=True))
    chart = curves(
        series,
        _RANKS,
        Axis("time of a LoRA step / of a FullFT step"),
        "Time of a LoRA step over a FullFT step against rank, measured and by theory",
        references=[Reference(1.0, "as fast as FullFT"), Reference(2 / 3, "2/3")],
    )
    memory = [
        Series(
            f"hidden {timing['width']}",
            [(float(rank), float(size) / timing["full_bytes"]) for rank, size in timing["lora_bytes"].items()],
            index / max(len(timings) - 1, 1),
            dots=True,
        )
        for index, timing in enumerate(timings)
    ]
    second = curves(
        memory,
        _RANKS,
        Axis("memory of LoRA / of FullFT"),
        "Weights, gradients and moments of LoRA over FullFT against rank",
        references=[Reference(1.0, "as much as FullFT"), Reference(0.25, "the frozen base alone: 1/4")],
    )
    return [
        Figure(
            "compute-time",
            "Time of a step against theory",
            chart,
            "Measured steps (solid, 95 % interval) beside a count of multiply-adds (dashed), a colour a width: "
            "slightly more than 2/3 at low rank, above 1 where the rank passes about a sixth of the width.",
        ),
        Figure(
            "compute-memory",
            "Memory of weights and optimizer",
            second,
            "Counted bytes of weights, gradients and Adam's moments in float32; activations are left out.",
        ),
    ]


def invariance(evidence: Evidence) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, InvarianceQuestion)
    plain, *others = question.methods()
    same = {lora.name for lora in others[: len(question.transforms)]}
    series: list[Series] = []
    rows: list[tuple[str, float | None, float | None, float | None]] = []
    for lora in (plain, *others):
        run = next(iter(condition.of(lora.name, 0)), None)
        if run is None:
            continue
        name = _changes(lora, plain) if lora.name != plain.name else "plain"
        place = None if lora.name == plain.name else 0.95 if lora.name in same else 0.15
        said = "" if lora.name in same and any(one.name == "transformed" for one in series) else name
        said = "transformed" if said and lora.name in same else said
        series.append(Series(said, [(float(s), loss) for s, loss in run.test.items()], place, dashed=place is None))
        if lora.name != plain.name:
            found = exponential(
                mean([math.log2(max(d, ROUNDING)) for d in distances(condition, lora.name, plain.name).values()])
            )
            if found is not None:
                rows.append((("same: " if lora.name in same else "moved: ") + name, found.value, found.low, found.high))
    return [
        Figure(
            "invariance-distance",
            "How far each transform moves the training",
            forest(
                rows,
                "distance from plain / what was learned (log scale)",
                "Distance of each transformed training from the plain one",
                log=True,
                format="~e",
            ),
            "The largest distance of each run's loss from the plain run's, as a share of what that learned. Transforms "
            "that keep both invariants (same) stay as near as rounding allows; changing either one (moved) "
            "takes the training elsewhere by orders of magnitude more. Runs that are equal are drawn at 1e-6.",
        ),
        Figure(
            "invariance-curves",
            "Trajectories",
            curves(
                series,
                Axis("optimizer steps", log=True),
                NATS,
                "Held-out loss of the plain run, of the transformed and of the changed ones",
            ),
            "Held-out loss, seed 0. The transformed runs lie on the plain one (dashed); those that differ in one "
            "invariant do not.",
        ),
    ]


def _changes(lora: LoRA, plain: LoRA) -> str:
    parts = [
        f"{word}×{now / was:.3g}"
        for word, now, was in (
            ("α", lora.alpha, plain.alpha),
            ("A₀", lora.init_scale, 1.0),
            ("lr A", lora.a_rate, 1.0),
            ("lr B", lora.b_rate, 1.0),
        )
        if now != was
    ]
    return " ".join(parts)


def variants(evidence: Evidence) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, VariantsQuestion)
    plain = question.methods[0].name
    rows: list[tuple[str, float | None, float | None, float | None]] = []
    forgot: list[tuple[str, float | None, float | None, float | None]] = []
    for method in condition.methods:
        name = _variant(method)
        found = condition.difference(method.name, plain) if method.name not in (plain, FULL) else None
        if method.name not in (plain, FULL):
            rows.append((name, None, None, None) if found is None else (name, found.value, found.low, found.high))
        rise = mean(list(forgetting(condition, method.name).values()))
        forgot.append((name, None, None, None) if rise is None else (name, rise.value, rise.low, rise.high))
    full = condition.difference(FULL, plain)
    apart = "" if full is None else f" Full fine-tuning ends {words.signed(full.value)} nats from it."
    return [
        Figure(
            "variants-loss",
            "Variants against plain LoRA",
            forest(
                rows,
                "held-out loss − plain LoRA's (nats a token)",
                "Difference of each variant from plain LoRA",
                zero="plain LoRA",
            ),
            "Each at its own best learning rate and the same budget, paired examples and seeds, 95 % interval. Left of "
            f"zero is better than plain LoRA.{apart}",
        ),
        Figure(
            "variants-forgetting",
            "What each one forgets",
            forest(
                forgot,
                "rise of the base's own loss (nats a token)",
                "Forgetting of each method",
                zero="nothing forgotten",
            ),
            "Loss on held-out text of what the base was trained on, after minus before, each at its best rate.",
        ),
    ]


def _variant(method: Method) -> str:
    """What distinguishes it from plain LoRA, without the rank that all have."""
    changes = label(method).removesuffix(")").partition(", ")[2]
    return FULL_NAME if method.name == FULL else changes or "plain LoRA"


def scaling(evidence: Evidence) -> list[Figure]:
    ratios: list[tuple[float, float]] = []
    bars: list[tuple[float, float, float]] = []
    regrets: list[tuple[float, float]] = []
    whiskers: list[tuple[float, float, float]] = []
    conditions = sorted(evidence.conditions.values(), key=lambda condition: condition.hidden_size)
    for condition in conditions:
        width = float(condition.hidden_size)
        loras = sorted((m for m in condition.methods if isinstance(m, LoRA)), key=lambda lora: lora.rank)
        ratio = exponential(mean(list(log_ratios(condition, [lora.name for lora in loras])[0].values())))
        if ratio is not None:
            ratios.append((width, ratio.value))
            bars += [(width, ratio.low, ratio.high)] if ratio.low is not None and ratio.high is not None else []
        full, regret = condition.best(FULL), condition.difference(loras[-1].name, FULL)
        if regret is not None and full is not None and full.loss is not None:
            share = regret.over(full.loss.value / 100)
            regrets.append((width, share.value))
            whiskers += [(width, share.low, share.high)] if share.low is not None and share.high is not None else []
    widths = Axis("hidden size", log=True, ticks=[float(condition.hidden_size) for condition in conditions])
    top = named(loras[-1]) if conditions else ""
    first = curves(
        [Series("ratio", ratios, 0.8, bars, dots=True)],
        widths,
        Axis("best rate of LoRA / of FullFT", log=True, ticks=[0.5, 1, 2, 5, 10, 20]),
        "Ratio of best learning rates against the width of the base",
        references=[Reference(10.0, "the post: 10×")],
    )
    second = curves(
        [Series(top, regrets, 0.8, whiskers, dots=True)],
        widths,
        Axis("regret (% of the FullFT loss)"),
        "Regret of the highest rank against the width of the base",
        references=[Reference(0.0, "")],
    )
    found = [
        Figure(
            "scaling-ratio",
            "The ratio of best rates by size of the base",
            first,
            "Bases made alike that differ in width, the same data, steps and search. A level line would mean that the "
            "ratio of the post carries over to small bases.",
        ),
        Figure(
            "scaling-regret",
            "Regret by size of the base",
            second,
            f"Held-out loss of {top} minus that of full fine-tuning, as a share of the latter, 95 % interval.",
        ),
    ]
    return [*found, *(u_curves(condition, "scaling", condition.name) for condition in conditions)]
