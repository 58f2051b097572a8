"""The page of a study: one file that needs no network, with the verdict in words first.

The page is a pure function of the records. Every text is escaped, and a content security policy that names the hashes
of the page's own scripts keeps the browser from loading or running anything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from lowregret.report import words
from lowregret.report.reading import StudyRecords, load_study
from lowregret.report.tables import definitions, methods_table, text, trials_table
from lowregret.report.theme import config
from lowregret.runs.atomic import write_bytes

BADGES = {"low_regret": "low regret", "regret": "regret", "inconclusive": "inconclusive"}


def write_report(folder: Path) -> Path:
    """Write `folder/report.html` from the records of a compare or of one training, atomically; returns its path.

    Raises RecordsError when the records are missing or damaged, or when the folder cannot be written.
    """
    path = folder / "report.html"
    if (folder / "trial.json").is_file():
        from lowregret.report import rl_page

        write_bytes(path, rl_page.trial_page(folder).encode())
    else:
        write_bytes(path, page(load_study(folder)).encode())
    return path


def page(study: StudyRecords) -> str:
    """The whole page."""
    # Altair takes half a second to import: only who draws waits for it.
    from lowregret.report import curves, figures

    if study.rewarded:
        from lowregret.report import rl_page

        return rl_page.compare_page(study)
    window = max((curves.curve(study, name).window for name in study.methods), default=1)
    charts = (
        ("regret", "Regret", figures.regret_interval(study), words.regret_caption(study)),
        ("rates", "Loss against learning rate", figures.loss_against_learning_rate(study), words.rate_caption(study)),
        ("steps", "Loss against steps", figures.loss_against_steps(study), words.steps_caption(study, window)),
        ("cost", "Cost", figures.cost(study), words.cost_caption(study)),
    )
    drawn = [(key, title, chart.to_dict(), caption) for key, title, chart, caption in charts]
    specs = {key: spec for key, _, spec, _ in drawn}
    body = head(study) + "".join(figure(*parts) for parts in drawn) + tail(study)
    return document(words.headline(study), study.version, body, specs)


def tail(study: StudyRecords) -> str:
    """What stands below the figures: tables, rules, environment and the way to do it again."""
    return "".join(
        (
            section("methods", "Methods compared", methods_table(study)),
            section("trials", f"Every trial ({len(study.trials)})", trials_table(study)),
            section("search", "Search and stopping rules", _rules(study)),
            section("environment", "Environment", definitions(study.verdict.environment, "Not recorded.")),
            section("reproduce", "Reproduce", _reproduce(study)),
        )
    )


def document(title: str, version: str, body: str, specs: dict[str, Any]) -> str:
    """A page that needs no network: its style, its scripts, its figures' specifications by key, and its body."""
    own = files("lowregret.report")
    style = own.joinpath("page.css").read_text(encoding="utf-8")
    scripts = (_vega(), own.joinpath("page.js").read_text(encoding="utf-8"))
    data = {"charts": specs, "themes": {"light": config("light"), "dark": config("dark")}}
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style>\n</head>\n<body>\n<main>",
            body,
            f"</main>\n<footer>Written by lowregret {escape(version)} from the records in this folder.</footer>",
            f'<script type="application/json" id="data">{_json(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        )
    )


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, once a page and built once a process (it takes a second)."""
    import vl_convert

    # A closing tag inside a script would end it; the bundle has none today.
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _policy(scripts: tuple[str, ...]) -> str:
    """No network; only these scripts. Vega compiles its expressions, hence `unsafe-eval`."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def section(key: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{key}-title">\n<h2 id="{key}-title">{escape(title)}</h2>\n{body}\n</section>\n'


def head(study: StudyRecords) -> str:
    verdict = study.verdict
    headline = text(words.headline(study)).replace("(rank ", "(rank&nbsp;")
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<header class="verdict {escape(verdict.verdict)}">\n'
        f'<p class="topline"><span class="badge">{BADGES[verdict.verdict]}</span> '
        f"{escape(study.spec.model)} on {escape(study.spec.data.train)}</p>\n"
        f"<h1>{headline}</h1>\n"
        f"{_facts(study)}\n</header>\n"
        f'<div class="columns">\n<section aria-labelledby="why"><h2 id="why">Why</h2>\n<ul>{reasons}</ul></section>\n'
        f"{_recommendation(study)}\n</div>\n"
    )


def _facts(study: StudyRecords) -> str:
    verdict = study.verdict
    facts: list[tuple[str, str, str]] = []
    percent = "" if verdict.regret_percent is None else f"{verdict.regret_percent:+.2f} %".replace("-", words.MINUS)
    if verdict.regret_nats is not None:
        facts.append(("Regret", f"{words.signed(verdict.regret_nats)} nats", percent))
    if verdict.regret_reward is not None:
        facts.append(("Regret", words.signed(verdict.regret_reward), "reward below full fine-tuning"))
    if verdict.ci95 is not None:
        facts.append(("95 % interval", words.interval(verdict.ci95), "of reward" if study.rewarded else "nats"))
    if verdict.tolerance_reward is not None:
        facts.append(("Tolerance", words.nats(verdict.tolerance_reward), "of reward"))
    if verdict.base_reward is not None:
        facts.append(("Before training", words.nats(verdict.base_reward), "held-out reward"))
    if verdict.tolerance_nats is not None:
        of = f"{words.share(study.spec.tolerance)} of full fine-tuning"
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
        kind = "lora" if advice.rank is not None else "full"
        if (study.folder / "best" / kind).is_dir():
            rows["Trained weights"] = f"best/{kind}"
        body = definitions(rows, "")
        if study.verdict.verdict == "inconclusive":
            body += '<p class="note">Provisional: the study did not settle the question.</p>'
    return f'<aside class="advice" aria-labelledby="advice"><h2 id="advice">Train with</h2>\n{body}</aside>'


def figure(key: str, title: str, spec: dict[str, Any], caption: str) -> str:
    """A figure: static until the script draws it, and static again in print."""
    from lowregret.report.figures import svg

    image = base64.b64encode(svg(spec).encode()).decode()
    buttons = "".join(
        f'<button type="button" data-save="{kind}" data-figure="{key}"'
        f' aria-label="Save {escape(title)} as {kind.upper()}">{kind.upper()}</button>'
        for kind in ("svg", "png")
    )
    return (
        f'<section aria-labelledby="{key}-title">\n<h2 id="{key}-title">{escape(title)}</h2>\n'
        f'<figure>\n<img class="still" alt="{escape(title)}" src="data:image/svg+xml;base64,{image}">\n'
        f'<div class="live" id="figure-{key}"></div>\n'
        f'<figcaption>{text(caption)} <span class="saves">{buttons}</span></figcaption>\n</figure>\n</section>\n'
    )


def _rules(study: StudyRecords) -> str:
    search = dict(study.verdict.search)
    told = search.pop("rules", None)
    told = [str(rule) for rule in told] if isinstance(told, list | tuple) else []
    limit = f"{words.share(study.spec.tolerance)} of the full fine-tuning loss"
    limit = f"{study.spec.tolerance:g} of reward" if study.rewarded else limit
    judged = (
        f"Regret is low when its whole 95 % interval lies under {limit}, and regret when it lies "
        "wholly above, both learning rates bracketed and two seeds at least; "
        "otherwise the study is inconclusive."
    )
    rules = "".join(f"<li>{text(rule)}</li>" for rule in (*told, judged))
    return f"<ul>{rules}</ul>\n{definitions(search, '')}"


def _reproduce(study: StudyRecords) -> str:
    resolved = json.dumps(study.spec.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return (
        f'<pre class="command" tabindex="0"><code>{escape(study.command)}</code></pre>\n'
        "<details><summary>The resolved spec, every default filled in</summary>\n"
        f'<pre tabindex="0"><code>{escape(resolved)}</code></pre></details>'
    )
