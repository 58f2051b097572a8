"""The frame of every page: one file that needs no network, with its style, its scripts and its figures.

Every text is escaped, and a content security policy that names the hashes of the page's own scripts keeps the browser
from loading or running anything else.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from lowregret.foreign_text import shown, without_secrets
from lowregret.report.charts.theme import config
from lowregret.report.pages.tables import text
from lowregret.strict_json import to_json


def document(
    title: str, version: str, body: str, specs: dict[str, Any], made_from: str = "the records in this folder"
) -> str:
    """A page that needs no network: its style, its scripts, its figures' specifications by key, and its body."""
    own = files("lowregret.report.pages")
    style = own.joinpath("page.css").read_text(encoding="utf-8")
    drawing = (_vega(),) if specs else ()
    scripts = (*drawing, own.joinpath("page.js").read_text(encoding="utf-8"))
    data = {"charts": specs, "themes": {"light": config("light"), "dark": config("dark")}}
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(shown(title))}</title>",
            f"<style>\n{style}</style>\n</head>\n<body>\n<main>",
            shown(body),
            f"</main>\n<footer>Written by lowregret {escape(shown(version))} from {escape(shown(made_from))}.</footer>",
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
    return to_json(without_secrets(value), separators=(",", ":")).replace("<", "\\u003c")


def section(key: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{key}-title">\n<h2 id="{key}-title">{escape(title)}</h2>\n{body}\n</section>\n'


def figure(key: str, title: str, spec: dict[str, Any], caption: str) -> str:
    """A figure: static until the script draws it, and static again in print."""
    from lowregret.report.charts.drawing import svg  # altair takes half a second to import

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


def reproduce(command: str, spec: Any) -> str:
    """The way to do it again: the command, and the spec that it stands for."""
    resolved = to_json(spec, indent=2, ensure_ascii=False)
    return (
        f'<pre class="command" tabindex="0"><code>{escape(command)}</code></pre>\n'
        "<details><summary>The resolved spec, every default filled in</summary>\n"
        f'<pre tabindex="0"><code>{escape(resolved)}</code></pre></details>'
    )
