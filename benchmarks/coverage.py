"""How often the verdict is true: studies drawn from worlds of known regret, searched and judged by the product.

    python -m benchmarks.coverage [--quick] [--json] [--limits] [--setting NAME …] [--studies N]

Every study is a `compare` without trainings: `study.search.next_trials` asks for its trials, the world answers each
with the held-out loss of every example, and `analysis.regret.judge` rules. A world's loss at a learning rate is a bowl
around an optimum that lies anywhere between the lattice's rates, steeper above than below by `skew`; a seed shifts all
methods' losses alike, a method's own at that seed, and each trial's own; examples differ by method and by trial. The
spreads are those of our own records: SmolLM2 on GSM8K, and the 130 bracketed conditions of `study all` on `tiny`.

For each setting: `cover`, the share of 95 % intervals that hold the true regret; `half_width`, their mean half width in
percent of the loss, and `plain`, the same of the plain paired interval over seeds and examples (what 0.2 had), for its
`ratio`; `bias`, in percent of the loss; `false_low`, how often `low_regret` is said at a true regret of twice the
tolerance; `says_low_at_zero`, how often at none. The tolerance is the default, 5 % of what FullFT learns. `lag_cover`,
the share of the lag's intervals that hold the true one: curves fall by a tenth of what is learned with each doubling of
the steps, so LoRA's is FullFT's, drawn out by 2 to the power of the regret over that, and every evaluation has noise.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from lowregret.analysis.regret import judge
from lowregret.runs.records import ExampleLosses, TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, DataSpec, TrialSpec
from lowregret.strict_json import to_json
from lowregret.study.search import next_trials
from lowregret.train.schedule import eval_steps

STEPS = 480
FALL = 0.1
"""Share of what is learned by which a doubling of the steps lowers the loss."""
PRIOR_FULL, PRIOR_LORA = 1e-4, 1e-3
STUDIES, QUICK_STUDIES = 3000, 900
"""Per setting and true regret: the standard error of a coverage of 95 % is 0.2 and 0.4 points over all three."""


@dataclass(frozen=True)
class Setting:
    """A world. Losses and spreads in nats per token; spreads are standard deviations."""

    loss: float
    """FullFT's at its optimum."""
    learned: float
    """By FullFT, from the base's loss down to `loss`."""
    bend: float
    """Loss at a factor of 2 from the optimum, on the lower side, above the optimum's."""
    shared: float
    """Over seeds, common to all methods."""
    own: float
    """Over seeds, a method's, common to its learning rates."""
    trial: float
    """Over trials: a learning rate's at a seed."""
    example: float
    """Over examples, of the difference of two methods."""
    both: float
    """Over examples, of one trial."""
    examples: int
    seeds: int = 3
    loras: int = 1
    skew: float = 1.3
    """Bend above the optimum over that below."""
    tokens: int = 20


_TINY = Setting(0.5, 1.3, 0.0265, 0.006, 0.007, 0.008, 0.06, 0.06, examples=128)
_TINY_NOISY = Setting(0.5, 1.3, 0.055, 0.005, 0.006, 0.007, 0.05, 0.05, examples=128)
_SMOLLM2 = Setting(0.86, 0.63, 0.025, 0.004, 0.003, 0.004, 0.035, 0.02, examples=64)
_QUIET = Setting(1.0, 0.4, 0.010, 0.001, 0.0005, 0.0007, 0.01, 0.005, examples=500)
SETTINGS = {
    "records-median": _TINY,
    "records-upper-quartile": _TINY_NOISY,
    "smollm2": _SMOLLM2,
    "500-examples": replace(_SMOLLM2, examples=500),
    "two-seeds": replace(_SMOLLM2, seeds=2),
    "nine-seeds": replace(_SMOLLM2, examples=192, seeds=9),
    "quiet": _QUIET,
    "four-loras": replace(_SMOLLM2, loras=4),
    "four-loras-median": replace(_TINY, loras=4),
}
LIMITS = {
    "quiet-nine-seeds": replace(_QUIET, seeds=9),
    "no-shared-noise": replace(_SMOLLM2, examples=500, shared=0.0),
    "median-skewed": replace(_TINY, skew=2.0),
    "upper-quartile-skewed": replace(_TINY_NOISY, skew=2.0),
    "quiet-skewed": replace(_QUIET, skew=2.0),
    "quiet-nine-seeds-skewed": replace(_QUIET, seeds=9, skew=2.0),
    "quiet-symmetric": replace(_QUIET, skew=1.0),
}
"""Where intervals may cover less or be wider than they should: `--limits` measures it."""


@dataclass(frozen=True)
class Row:
    """What came of one setting; see the top of the file."""

    setting: str
    cover: float
    half_width: float
    plain: float
    ratio: float
    bias: float
    false_low: float
    says_low_at_zero: float
    says_inconclusive_at_zero: float
    plain_cover: float
    lag_cover: float
    studies: int


class World:
    """One study's truth. Every LoRA has the same true regret."""

    def __init__(self, setting: Setting, regret: float, rng: np.random.Generator) -> None:
        self.setting, self.regret, self.rng = setting, regret, rng
        names = ["full", *(f"lora:{2 << i}" for i in range(setting.loras))]
        self.spec = CompareSpec(
            model="tiny",
            data=DataSpec(train="builtin:arithmetic"),
            methods=tuple(names),  # type: ignore[arg-type]
            seeds=setting.seeds,
        )
        self.names = tuple(method.name for method in self.spec.methods)
        self.priors = {name: PRIOR_FULL if name == "full" else PRIOR_LORA for name in self.names}
        self.optimum = {name: rng.uniform(-1.5, 1.5) for name in self.names}
        spread = setting.example / math.sqrt(2)
        self.per_example = {name: spread * rng.normal(size=setting.examples) for name in self.names}
        self.shared = setting.shared * rng.normal(size=setting.seeds)
        self.own = {name: setting.own * rng.normal(size=setting.seeds) for name in self.names}
        self.tokens = (setting.tokens,) * setting.examples
        self.records: list[TrialRecord] = []
        self.losses: dict[str, ExampleLosses] = {}

    def answer(self, trial: TrialSpec) -> None:
        """Train nobody, and write the record."""
        setting, name, rng = self.setting, trial.method.name, self.rng
        place = math.log2(trial.learning_rate / self.priors[name]) - self.optimum[name]
        loss = setting.loss + (0.0 if name == "full" else self.regret)
        loss += setting.bend * place**2 * (setting.skew if place > 0 else 1.0)
        loss += self.shared[trial.seed] + self.own[name][trial.seed] + setting.trial * rng.normal()
        per_token = loss + self.per_example[name] + setting.both * rng.normal(size=setting.examples)
        sums = per_token * setting.tokens
        self.losses[trial.id] = ExampleLosses.model_construct(nll_sums=tuple(sums.tolist()), tokens=self.tokens)
        self.records.append(
            TrialRecord(
                id=trial.id,
                method=name,
                learning_rate=trial.learning_rate,
                seed=trial.seed,
                status="finished",
                spec=trial,
                test_nll=float(per_token.mean()),
                test_tokens=sum(self.tokens),
                steps=24,
                tokens=1,
                seconds=1.0,
                trainable_parameters=1 if name == "full" else int(name.partition(":")[2]),
            )
        )

    @property
    def lag(self) -> float:
        """LoRA's steps over FullFT's for the same loss."""
        return float(2 ** (self.regret / (FALL * self.setting.learned)))

    def curves(self) -> dict[str, dict[int, float]]:
        """Of every trial: straight in the logarithm of the step, to where it ended, with noise before that."""
        fall, noise = FALL * self.setting.learned, self.setting.trial / 2
        rng = np.random.default_rng(len(self.records))
        steps = sorted(eval_steps(8, STEPS))
        return {
            r.id: {
                step: (r.test_nll or 0.0)
                + fall * math.log2(STEPS / step)
                + (noise * rng.normal() if step < STEPS else 0)
                for step in steps
            }
            for r in self.records
        }

    def study(self) -> Verdict:
        """Search to the end, and judge."""
        while wanted := next_trials(self.spec, self.priors, self.records):
            for trial in wanted:
                self.answer(trial)
        base = self.setting.loss + self.setting.learned
        return judge(self.spec, self.records, self.losses, base, {}, curves=self.curves())

    def plain(self, verdict: Verdict) -> tuple[float, float]:
        """(value, half width) of the plain paired interval: the LoRA of the lowest mean, examples and seeds alone."""
        from scipy.special import stdtrit

        per_seed = {}
        for result in verdict.methods:
            at_best = {r.seed: r for r in self.records if r.method == result.name}
            at_best |= {
                r.seed: r
                for r in self.records
                if r.method == result.name and r.learning_rate == result.best_learning_rate
            }
            rows = [self.losses[at_best[seed].id].nll_sums for seed in range(self.setting.seeds)]
            per_seed[result.name] = np.array(rows) / self.setting.tokens
        best = min((name for name in per_seed if name != "full"), key=lambda name: float(per_seed[name].mean()))
        difference = per_seed[best] - per_seed["full"]
        seeds, examples = difference.shape
        by_seeds = difference.mean(axis=1).var(ddof=1) / seeds
        by_examples = difference.mean(axis=0).var(ddof=1) / examples
        freedom = (by_seeds + by_examples) ** 2 / (by_seeds**2 / (seeds - 1) + by_examples**2 / (examples - 1))
        return float(difference.mean()), float(stdtrit(freedom, 0.975)) * math.sqrt(by_seeds + by_examples)


def measure(name: str, setting: Setting, studies: int, seed: int = 1) -> Row:
    """Draw `studies` studies at each of three true regrets: none, the tolerance, and twice the tolerance."""
    rng = np.random.default_rng(seed)
    tolerance = CompareSpec.model_fields["tolerance"].default * setting.learned
    covered, halves, plains, errors, plain_covered, lags = [], [], [], [], [], []
    said: dict[float, list[str]] = {}
    for regret in (0.0, tolerance, 2 * tolerance):
        for _ in range(studies):
            world = World(setting, regret, rng)
            verdict = world.study()
            said.setdefault(regret, []).append(verdict.verdict)
            if verdict.ci95 is None or verdict.regret_nats is None:
                continue
            low, high = verdict.ci95
            covered.append(low <= regret <= high)
            halves.append((high - low) / 2)
            errors.append(verdict.regret_nats - regret)
            value, half = world.plain(verdict)
            plains.append(half)
            plain_covered.append(abs(value - regret) <= half)
            if verdict.lag is not None and verdict.lag.factor is not None:
                lags.append((verdict.lag.low or 0.0) <= world.lag <= (verdict.lag.high or math.inf))
    percent = 100 / setting.loss
    half_width, plain = statistics.fmean(halves), statistics.fmean(plains)
    return Row(
        setting=name,
        cover=round(statistics.fmean(covered), 4),
        half_width=round(percent * half_width, 3),
        plain=round(percent * plain, 3),
        ratio=round(half_width / plain, 3),
        bias=round(percent * statistics.fmean(errors), 3),
        false_low=round(said[2 * tolerance].count("low_regret") / studies, 4),
        says_low_at_zero=round(said[0.0].count("low_regret") / studies, 4),
        says_inconclusive_at_zero=round(said[0.0].count("inconclusive") / studies, 4),
        plain_cover=round(statistics.fmean(plain_covered), 4),
        lag_cover=round(statistics.fmean(lags), 4),
        studies=3 * studies,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row a setting, as a table or as a JSON list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STUDIES} studies a regret, not {STUDIES}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--limits", action="store_true", help="the settings in which it may fail, too")
    parser.add_argument("--setting", action="append", choices=[*SETTINGS, *LIMITS])
    parser.add_argument("--studies", type=int)
    asked = parser.parse_args(arguments)
    studies = asked.studies or (QUICK_STUDIES if asked.quick else STUDIES)
    known = SETTINGS | LIMITS
    names = asked.setting or list(known if asked.limits else SETTINGS)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(measure, names, [known[name] for name in names], [studies] * len(names)))
    if asked.json:
        print(to_json([asdict(row) for row in rows], indent=1))
        return
    titles = list(asdict(rows[0]))
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for row in rows:
        print("| " + " | ".join(str(value) for value in asdict(row).values()) + " |")


if __name__ == "__main__":
    main()
