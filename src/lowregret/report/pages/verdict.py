"""What a compare's page has above its figures, the verdict in words first, and below them."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lowregret.analysis.tolerance import SHARE_OF
from lowregret.report.charts import words
from lowregret.report.pages import action, captions
from lowregret.report.pages.document import joined, reproduce, section
from lowregret.report.pages.tables import definitions, methods_table, trials_table
from lowregret.report.pages.templates import render
from lowregret.report.pages.use import use
from lowregret.report.reading import StudyRecords
from lowregret.runs.files import BEST, BEST_FULL, BEST_LORA
from lowregret.runs.forecast import ForecastedRegret
from lowregret.runs.verdict import MethodResult

BADGES = {"low_regret": "low regret", "regret": "regret", "inconclusive": "inconclusive"}


def head(study: StudyRecords) -> Markup:
    """The verdict in plain words, what to do, the numbers and the reasons."""
    verdict = study.verdict
    said, why = captions.plain(study), captions.headline(study)
    steps = action.steps(study)
    return render(
        "verdict",
        kind=verdict.verdict,
        badge=BADGES[verdict.verdict],
        model=study.spec.model,
        data=study.spec.data.train,
        said=said,
        why="" if why == said else _sentence(why.removeprefix(captions.OPEN)),
        advice=_recommendation(study),
        notes=_notes(study),
        heading="To settle it" if verdict.verdict == "inconclusive" else "Serve and ship it",
        steps=steps,
        otherwise=action.otherwise(study),
        more=verdict.verdict != "inconclusive",
        facts=_facts(study),
        reasons=verdict.reasons,
    )


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:]


def _facts(study: StudyRecords) -> list[dict[str, str]]:
    verdict = study.verdict
    facts: list[tuple[str, str, str]] = []
    if verdict.regret_nats is not None:
        factor = f"perplexity ×\N{NO-BREAK SPACE}{words.perplexity(verdict.regret_nats)}"
        note = "; ".join(filter(None, (words.of_learned(verdict.regret_learned), factor)))
        facts.append(("Regret", f"{words.signed(verdict.regret_nats)} nats", note))
    if verdict.regret_reward is not None:
        facts.append(("Regret", words.signed(verdict.regret_reward), "reward below full fine-tuning"))
    if verdict.ci95 is not None:
        facts.append(("95 % interval", words.interval(verdict.ci95), "of reward" if study.rewarded else "nats"))
    forecast = study.forecast and study.forecast.of(verdict.lora.name if verdict.lora else "")
    if forecast and forecast.says_nothing:
        facts.append(("Forecast", "none", "the bank knows too little that is like this case"))
    elif forecast:
        facts.append(("Forecast", *_forecasted(forecast)))
    lag = verdict.lag
    if lag is not None and lag.factor is not None:
        bounds = "" if lag.low is None or lag.high is None else f"95 %: {lag.low:.2g} to {lag.high:.2g}"
        facts.append(("In steps", f"{lag.factor:.2g} times", f"full fine-tuning's; {bounds}".rstrip("; ")))
    if verdict.tolerance_reward is not None:
        facts.append(("Tolerance", words.nats(verdict.tolerance_reward), "of reward"))
    if verdict.base_reward is not None:
        facts.append(("Before training", words.nats(verdict.base_reward), "held-out reward"))
    if verdict.base_nll is not None:
        facts.append(("Before training", f"{words.nats(verdict.base_nll)} nats", _loss_note(verdict.base_nll)))
    if verdict.tolerance_nats is not None:
        of = f"{words.share(study.spec.tolerance)} of {SHARE_OF[study.spec.tolerance_of]}"
        facts.append(("Tolerance", f"{words.nats(verdict.tolerance_nats)} nats", of))
    facts += [_tile(study, result) for result in (verdict.lora, verdict.full) if result is not None]
    return [{"name": name, "value": value, "note": note} for name, value, note in facts if value]


def _forecasted(forecast: ForecastedRegret) -> tuple[str, str]:
    """The number, and where it is from."""
    if forecast.regret_nats is None or forecast.nats_interval is None:
        low, high = forecast.share_interval
        return f"{forecast.share:+.1%}", f"of what is learned, before any training; 90 %: {low:+.1%} to {high:+.1%}"
    return f"{words.signed(forecast.regret_nats)} nats", f"from pilots; 90 %: {words.interval(forecast.nats_interval)}"


def _tile(study: StudyRecords, result: MethodResult) -> tuple[str, str, str]:
    """A method's held-out result; nothing where there is none."""
    seeds, label = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds", study.label(result.name)
    if result.test_nll is not None:
        return label, f"{words.nats(result.test_nll)} nats", f"{_loss_note(result.test_nll)}; {seeds}"
    if result.test_reward is not None:
        return label, words.nats(result.test_reward), f"held-out reward, {seeds}"
    return label, "", ""


def _loss_note(nll: float) -> str:
    return f"held-out loss; perplexity {words.perplexity(nll)}"


def _recommendation(study: StudyRecords) -> Markup:
    """What to train with; empty where nothing finished."""
    advice = study.verdict.recommendation
    if advice is None:
        return Markup("")
    rows = {"Method": study.label(advice.method)}
    if advice.rank is not None:
        rows["Rank"] = str(advice.rank)
    rows |= {"Learning rate": words.rate(advice.learning_rate), "Batch size": str(advice.batch_size)}
    if advice.targets is not None:
        rows["Targets"] = ", ".join(advice.targets)
    kind = BEST_FULL if advice.rank is None else BEST_LORA
    if (study.folder / BEST / kind).is_dir():
        rows["Trained weights"] = f"{BEST}/{kind}"
    return definitions(rows)


def _notes(study: StudyRecords) -> list[str]:
    """What to know beside the recommendation."""
    advice, notes = study.verdict.recommendation, []
    if advice is not None and advice.alternative is not None:
        notes.append(f"Or {advice.alternative}.")
    if study.verdict.verdict == "inconclusive":
        notes.append("Provisional: the study did not settle the question.")
    return notes


def tail(study: StudyRecords) -> Markup:
    """What stands below the figures: tables, rules, environment and the way to do it again."""
    return joined(
        [
            use(study.folder, study.spec.model, study.spec.batch_size),
            section("methods", "Methods compared", methods_table(study)),
            section("trials", f"Every trial ({len(study.trials)})", trials_table(study)),
            section("search", "Search and stopping rules", _rules(study)),
            section("environment", "Environment", definitions(study.verdict.environment, "Not recorded.")),
            section("reproduce", "Reproduce", reproduce(study.command, study.spec.model_dump(mode="json"))),
        ]
    )


def _rules(study: StudyRecords) -> Markup:
    search: dict[str, Any] = dict(study.verdict.search)
    told = search.pop("rules", None)
    told = [str(rule) for rule in told] if isinstance(told, list | tuple) else []
    limit = f"{words.share(study.spec.tolerance)} of {SHARE_OF[study.spec.tolerance_of]}"
    limit = f"{study.spec.tolerance:g} of reward" if study.rewarded else limit
    judged = (
        f"Regret is low when its whole 95 % interval lies under {limit}, and regret when it lies "
        "wholly above, both learning rates bracketed and two seeds at least; "
        "otherwise the study is inconclusive."
    )
    return render("rules", rules=[*told, judged], counts=definitions(search))
