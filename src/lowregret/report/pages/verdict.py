"""What a compare's page has above its figures, the verdict in words first, and below them."""

from __future__ import annotations

from html import escape

from lowregret.analysis.settle import settling_command
from lowregret.report.charts import words
from lowregret.report.pages.captions import headline
from lowregret.report.pages.document import reproduce, section
from lowregret.report.pages.tables import definitions, methods_table, text, trials_table
from lowregret.report.pages.use import use
from lowregret.report.reading import StudyRecords
from lowregret.runs.files import BEST, BEST_FULL, BEST_LORA
from lowregret.runs.forecast import ForecastedRegret

_TOLERANCE_OF = {"learned": "what full fine-tuning learns", "loss": "the full fine-tuning loss"}
BADGES = {"low_regret": "low regret", "regret": "regret", "inconclusive": "inconclusive"}


def head(study: StudyRecords) -> str:
    verdict = study.verdict
    said = text(headline(study)).replace("(rank ", "(rank&nbsp;")
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<header class="verdict {escape(verdict.verdict)}">\n'
        f'<p class="topline"><span class="badge">{BADGES[verdict.verdict]}</span> '
        f"{escape(study.spec.model)} on {escape(study.spec.data.train)}</p>\n"
        f"<h1>{said}</h1>\n"
        f"{_facts(study)}\n</header>\n"
        f'<div class="columns">\n<section aria-labelledby="why"><h2 id="why">Why</h2>\n<ul>{reasons}</ul>'
        f"{_settling(study)}</section>\n"
        f"{_recommendation(study)}\n</div>\n"
    )


def _facts(study: StudyRecords) -> str:
    verdict = study.verdict
    facts: list[tuple[str, str, str]] = []
    if verdict.regret_nats is not None:
        facts.append(("Regret", f"{words.signed(verdict.regret_nats)} nats", words.of_learned(verdict.regret_learned)))
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
    if verdict.tolerance_nats is not None:
        of = f"{words.share(study.spec.tolerance)} of {_TOLERANCE_OF[study.spec.tolerance_of]}"
        facts.append(("Tolerance", f"{words.nats(verdict.tolerance_nats)} nats", of))
    for result in (verdict.lora, verdict.full):
        if result is not None and result.test_nll is not None:
            seeds = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"
            facts.append((study.label(result.name), words.nats(result.test_nll), f"held-out loss, {seeds}"))
        elif result is not None and result.test_reward is not None:
            seeds = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"
            facts.append((study.label(result.name), words.nats(result.test_reward), f"held-out reward, {seeds}"))
    tiles = "".join(
        f"<div><dt>{text(name)}</dt><dd><strong>{text(value)}</strong> <span>{text(note)}</span></dd></div>"
        for name, value, note in facts
    )
    return f'<dl class="facts">{tiles}</dl>' if tiles else ""


def _forecasted(forecast: ForecastedRegret) -> tuple[str, str]:
    """The number, and where it is from."""
    if forecast.regret_nats is None or forecast.nats_interval is None:
        low, high = forecast.share_interval
        return f"{forecast.share:+.1%}", f"of what is learned, before any training; 90 %: {low:+.1%} to {high:+.1%}"
    return f"{words.signed(forecast.regret_nats)} nats", f"from pilots; 90 %: {words.interval(forecast.nats_interval)}"


def _settling(study: StudyRecords) -> str:
    """The commands, any one of which would settle the verdict."""
    settling = study.verdict.settling
    if settling is None or not settling.options or not study.command.startswith("lowregret "):
        return ""
    commands = [settling_command(study.command, str(study.folder), option) for option in settling.options]
    return f"<h3>To settle it</h3>\n<pre>{escape(chr(10).join(commands))}</pre>"


def _recommendation(study: StudyRecords) -> str:
    advice = study.verdict.recommendation
    if advice is None:
        body = "<p>Nothing finished that could be recommended.</p>"
    else:
        rows = {"Method": study.label(advice.method)}
        if advice.rank is not None:
            rows["Rank"] = str(advice.rank)
        rows |= {"Learning rate": words.rate(advice.learning_rate), "Batch size": str(advice.batch_size)}
        if advice.targets is not None:
            rows["Targets"] = ", ".join(advice.targets)
        kind = BEST_FULL if advice.rank is None else BEST_LORA
        if (study.folder / BEST / kind).is_dir():
            rows["Trained weights"] = f"{BEST}/{kind}"
        body = definitions(rows, "")
        if advice.alternative is not None:
            body += f'<p class="note">Or {text(advice.alternative)}.</p>'
        if study.verdict.verdict == "inconclusive":
            body += '<p class="note">Provisional: the study did not settle the question.</p>'
    return f'<aside class="advice" aria-labelledby="advice"><h2 id="advice">Train with</h2>\n{body}</aside>'


def tail(study: StudyRecords) -> str:
    """What stands below the figures: tables, rules, environment and the way to do it again."""
    return "".join(
        (
            use(study.folder, study.spec.model, study.spec.batch_size),
            section("methods", "Methods compared", methods_table(study)),
            section("trials", f"Every trial ({len(study.trials)})", trials_table(study)),
            section("search", "Search and stopping rules", _rules(study)),
            section("environment", "Environment", definitions(study.verdict.environment, "Not recorded.")),
            section("reproduce", "Reproduce", reproduce(study.command, study.spec.model_dump(mode="json"))),
        )
    )


def _rules(study: StudyRecords) -> str:
    search = dict(study.verdict.search)
    told = search.pop("rules", None)
    told = [str(rule) for rule in told] if isinstance(told, list | tuple) else []
    limit = f"{words.share(study.spec.tolerance)} of {_TOLERANCE_OF[study.spec.tolerance_of]}"
    limit = f"{study.spec.tolerance:g} of reward" if study.rewarded else limit
    judged = (
        f"Regret is low when its whole 95 % interval lies under {limit}, and regret when it lies "
        "wholly above, both learning rates bracketed and two seeds at least; "
        "otherwise the study is inconclusive."
    )
    rules = "".join(f"<li>{text(rule)}</li>" for rule in (*told, judged))
    return f"<ul>{rules}</ul>\n{definitions(search, '')}"
