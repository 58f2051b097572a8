"""How often `compare --until-decided` comes to the full comparison's verdict, how often to a false one, and its cost.

    python -m benchmarks.until_decided replay FOLDER … [--json]     # finished comparisons, nothing pruned
    python -m benchmarks.until_decided simulate [--studies N] [--setting NAME …]

`replay` asks the rule what it would train next, and answers from the records of a comparison that was trained to its
end (`benchmarks.bank`): with the trial's own curve as far as asked for. A trial that the full comparison did not need
is answered by its neighbours' curves, the further from the best rate the worse, and counted. The full comparison's
cost is that of its own trials; agreement is with the verdict that the same judge makes of all its records.

`simulate` draws comparisons from worlds of known regret, as `benchmarks.coverage` does, in which trials have curves and
shorter runs want higher rates. A verdict is false when it is `low_regret` at a regret above the tolerance, or `regret`
at one below it; at the tolerance itself either is.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks.coverage import SETTINGS, Setting, World

from lowregret.analysis.comparison import Examples
from lowregret.analysis.regret import judge
from lowregret.runs.atomic import read_json
from lowregret.runs.decision import Decision, Look
from lowregret.runs.files import EXAMPLES, METRICS, SPEC
from lowregret.runs.metrics import held_out_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_examples, read_trials, start_loss, trial_folder
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, TrialSpec
from lowregret.strict_json import to_json
from lowregret.study.decide.contest import Ask, Contest
from lowregret.study.decide.looking import looked
from lowregret.study.decide.rungs import rungs_of
from lowregret.study.search import next_trials
from lowregret.train.schedule import eval_steps

Answered = tuple[TrialRecord, Mapping[int, float], Examples | None]
"""What becomes of a trial that is trained to its end: its record, its curve, its held-out examples."""


@dataclass
class Played:
    """A comparison that was played to its decision, with nothing trained."""

    verdict: Verdict
    decision: Decision
    steps: int


def play(
    spec: CompareSpec,
    priors: Mapping[str, float],
    base: float,
    rungs: tuple[int, ...],
    answer: Callable[[TrialSpec], Answered],
    reached: dict[TrialSpec, int] | None = None,
) -> Played:
    """Ask, answer, look, until it is decided; `reached` are the steps that trials have taken, and is added to."""
    reached = {} if reached is None else reached
    full = {trial: answer(trial) for trial in reached}
    looks: tuple[Look, ...] = ()
    verdict: Verdict | None = None
    while True:
        records, curves = [], {}
        for trial, until in reached.items():
            record, curve, _ = full[trial]
            running = until < record.steps
            records.append(record.model_copy(update={"status": "running", "steps": 0}) if running else record)
            curves[record.id] = {step: loss for step, loss in curve.items() if step <= until}
        contest = Contest(spec, priors, records, curves, base, rungs, looks)
        step = contest.next()
        if step is None:
            if verdict is None:
                raise ValueError("nothing could be judged")
            return Played(verdict, contest.decision(), contest.decision().steps)
        if isinstance(step, Ask):
            before = dict(reached)
            for trial in step.trials:
                full[trial] = answer(trial)
                reached[trial] = max(reached.get(trial, 0), step.until or rungs[-1])
            if reached == before:
                raise ValueError(f"asked again for {step}")
            continue
        losses = {found[0].id: found[2] for found in full.values() if found[2] is not None}
        verdict = judge(step.spec, step.records, losses, base, {}, confidence=1 - step.error)
        look = looked(step, verdict, contest)
        looks = (*looks, look)
        verdict = verdict.model_copy(update={"verdict": look.ruling})


class CurvedWorld(World):
    """A world of `benchmarks.coverage` in which trials have curves: shorter runs want higher rates."""

    STEPS = 480
    DRIFT = 0.4
    """Doublings of the best rate for each halving of the steps."""

    def __init__(self, setting: Setting, regret: float, rng: np.random.Generator) -> None:
        super().__init__(setting, regret, rng)
        self._known: dict[TrialSpec, Answered] = {}

    def answered(self, trial: TrialSpec) -> Answered:
        """Train nobody; the same trial has the same result."""
        if trial not in self._known:
            self._known[trial] = self._trained(trial)
        return self._known[trial]

    def _trained(self, trial: TrialSpec) -> Answered:
        self.answer(trial)
        record = self.records[-1].model_copy(update={"steps": self.STEPS})
        assert record.test_nll is not None
        setting, name = self.setting, trial.method.name
        place = math.log2(trial.learning_rate / self.priors[name]) - self.optimum[name]
        curve = {}
        for step in sorted(eval_steps(8, self.STEPS)):
            halvings = math.log2(self.STEPS / step)
            early = place - self.DRIFT * halvings
            bend = _bowl(setting, early) - _bowl(setting, place)
            noise = 0.5 * setting.trial * self.rng.normal() if halvings else 0.0
            curve[step] = record.test_nll + 0.1 * setting.learned * halvings + bend + noise
        return record, curve, self.losses[trial.id]


def _bowl(setting: Setting, place: float) -> float:
    return float(min(setting.bend * place**2 * (setting.skew if place > 0 else 1.0), setting.learned))


@dataclass
class Tally:
    """Of comparisons of one kind."""

    said: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


def simulate(setting: Setting, regret: float, studies: int, rng: np.random.Generator, *, beside: bool = True) -> Tally:
    """Comparisons in worlds of one regret, each played to its decision, and in full `beside` it."""
    found = Tally()
    for _ in range(studies):
        world = CurvedWorld(setting, regret, rng)
        base = setting.loss + setting.learned
        rungs = rungs_of(sorted(eval_steps(8, world.STEPS)), world.STEPS)
        played = play(world.spec, world.priors, base, rungs, world.answered)
        found.said.append(played.verdict.verdict)
        found.seeds.append(played.decision.looks[-1].seeds)
        if beside:
            records: list[TrialRecord] = []
            while wanted := next_trials(world.spec, world.priors, records):
                records += [world.answered(trial)[0] for trial in wanted]
            found.plain.append(judge(world.spec, records, world.losses, base, {}).verdict)
            found.cost.append(played.steps / (len(records) * world.STEPS))
    return found


def false_share(tally: Tally, said: str) -> float:
    """How often a verdict was this."""
    return statistics.fmean(verdict == said for verdict in tally.said)


def replayed(folder: Path) -> dict[str, object]:
    """A finished comparison, played to its decision."""
    stored = read_json(folder / SPEC)
    spec = CompareSpec.model_validate(stored["spec"])
    priors = {name: float(prior) for name, prior in stored["resolved"]["priors"].items()}
    steps = int(stored["resolved"]["steps"])
    base = start_loss(folder)
    assert base is not None
    records = read_trials(folder)
    known = {record.spec: record for record in records}
    curves = {record.id: held_out_curve(trial_folder(folder, record.id) / METRICS) for record in records}
    losses = {r.id: read_examples(trial_folder(folder, r.id) / EXAMPLES) for r in records if r.status == "finished"}
    invented: set[TrialSpec] = set()

    def answer(trial: TrialSpec) -> Answered:
        if trial in known:
            found = known[trial]
            return found, curves[found.id], losses.get(found.id)
        invented.add(trial)
        return _neighbour(trial, records, curves, losses)

    rungs = rungs_of(sorted(eval_steps(spec.evals, steps)), steps)
    whole = judge(spec, records, losses, base, {})
    played = play(spec, priors, base, rungs, answer)
    return {
        "comparison": folder.name,
        "full": whole.verdict,
        "decided": played.verdict.verdict,
        "share": None if whole.learned is None or whole.regret_nats is None else whole.regret_nats / whole.learned,
        "lora": (None if whole.lora is None else whole.lora.name, played.decision.looks[-1].method),
        "cost": played.steps / sum(record.steps for record in records),
        "invented": len(invented),
        "seeds": played.decision.looks[-1].seeds,
    }


def _neighbour(
    trial: TrialSpec,
    records: Sequence[TrialRecord],
    curves: Mapping[str, Mapping[int, float]],
    losses: Mapping[str, Examples],
) -> Answered:
    """A trial that the full comparison did not need, drawn on in a straight line from the two nearest rates, if that is
    upwards; else as the nearest. Its held-out examples are those of the nearest, of the same seed if there is one."""
    own = [r for r in records if r.method == trial.method.name and r.status == "finished"]
    away = {r.learning_rate: abs(math.log2(r.learning_rate / trial.learning_rate)) for r in own}
    near = sorted(own, key=lambda r: (away[r.learning_rate], r.seed != trial.seed, r.seed))
    first = near[0]
    others = [r for r in own if r.seed == 0 and r.learning_rate != first.learning_rate]
    second = min(others, key=lambda r: away[r.learning_rate])
    times = away[first.learning_rate] / abs(math.log2(first.learning_rate / second.learning_rate))
    curve = {
        step: loss + times * max(loss - curves[second.id].get(step, loss), 0.0)
        for step, loss in curves[first.id].items()
    }
    facts = {"id": trial.id, "learning_rate": trial.learning_rate, "seed": trial.seed, "spec": trial}
    return first.model_copy(update={**facts, "test_nll": curve[first.steps]}), curve, losses.get(first.id)


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """Agreement and cost over comparisons."""
    agree = [row["full"] == row["decided"] for row in rows]
    settled = [row for row in rows if row["full"] != "inconclusive"]
    opposed = [row for row in settled if row["decided"] not in (row["full"], "inconclusive")]
    costs = [float(row["cost"]) for row in rows]  # type: ignore[arg-type]
    return (
        f"{sum(agree)} of {len(rows)} agree; {len(opposed)} of {len(settled)} settled ones are contradicted; cost "
        f"{statistics.fmean(costs):.0%} of the full comparison's ({min(costs):.0%} to {max(costs):.0%})"
    )


def _simulated(names: Sequence[str], studies: int) -> Iterator[dict[str, object]]:
    for name in names:
        setting = SETTINGS[name]
        tolerance = CompareSpec.model_fields["tolerance"].default * setting.learned
        for times in (0.0, 1.0, 2.0, 4.0):
            rng = np.random.default_rng(1)
            tally = simulate(setting, times * tolerance, studies, rng)
            wrong = [s for s in ("low_regret", "regret") if (s == "low_regret") == (times >= 1) or times == 1.0]
            yield {
                "setting": name,
                "regret in tolerances": times,
                "false": round(sum(false_share(tally, said) for said in wrong), 4),
                "settled": round(1 - false_share(tally, "inconclusive"), 3),
                "settled in full": round(statistics.fmean(v != "inconclusive" for v in tally.plain), 3),
                "agree": round(statistics.fmean(a == b for a, b in zip(tally.said, tally.plain, strict=True)), 3),
                "cost": round(statistics.fmean(tally.cost), 3),
                "seeds": round(statistics.fmean(tally.seeds), 2),
                "comparisons": studies,
            }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row a comparison, or a row a setting and regret."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("replay", "simulate"))
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--setting", action="append", choices=list(SETTINGS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.action == "replay":
        rows = [replayed(folder) for folder in asked.folders if (folder / "verdict.json").exists()]
    else:
        rows = list(_simulated(asked.setting or list(SETTINGS), asked.studies))
    for row in rows:
        print(to_json(row) if asked.json else "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if asked.action == "replay" and rows:
        print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
