"""What axe-core finds on pages: WCAG 2.2 A and AA, on a phone and on a desk, in the light and in the dark.

    npm pack axe-core && tar xzf axe-core-*.tgz
    python tools/axe.py package/axe.min.js runs/demo/report.html …

Needs Chromium (or Chrome, or what CHROMIUM names). Prints each rule that a page breaks, with its impact and where;
exits 1 when any is serious or critical.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lowregret.strict_json import to_json

WIDTHS = (390, 1440)
SCHEMES = ("dark", "light")
"""In the order of Chromium's `preferredColorScheme`."""
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_RUN = """<script>
addEventListener("load", () => setTimeout(() => axe.run(document, {runOnly: %s}).then((found) => {
  parent.postMessage(JSON.stringify(found.violations.map((one) => ({
    rule: one.id, impact: one.impact, help: one.help, where: one.nodes.map((node) => node.target.join(" ")),
  }))), "*");
}), 500));
</script>
"""
# A window is 500 pixels wide at least, a frame is as wide as it is told.
_FRAME = """<!doctype html><title>frame</title><pre id="axe-found"></pre>
<script>
addEventListener("message", (told) => { document.getElementById("axe-found").textContent = told.data; });
</script>
<iframe title="page" src="page.html" width="%d" height="4000"></iframe>
"""


def violations(page: Path, axe: str, width: int, scheme: str) -> list[dict[str, Any]]:
    """Of one page at one width in one scheme. SystemExit when the browser brings nothing back."""
    source = page.read_text(encoding="utf-8")
    # The page's own policy admits no other script: it is left out of the copy that is looked at.
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    # Beside the original, so that its style sheets are found.
    base = f'<base href="{page.parent.resolve().as_uri()}/">'
    source = re.sub(r"<head[^>]*>", lambda head: head[0] + base, source, count=1)
    checks = f"<script>{axe}</script>{_RUN % to_json(RULES)}"
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder, "frame.html")
        frame.write_text(_FRAME % width, encoding="utf-8")
        frame.with_name("page.html").write_text(source.replace("</body>", f"{checks}</body>"), encoding="utf-8")
        command = [_browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width + 50},4000"]
        command += [f"--blink-settings=preferredColorScheme={SCHEMES.index(scheme)}"]
        command += ["--virtual-time-budget=20000", "--dump-dom", frame.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r'<pre id="axe-found">(.+?)</pre>', dom, re.S)
    if found is None:
        raise SystemExit(f"{page}: axe said nothing. Is the first argument axe.min.js of the package axe-core?")
    told: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return told


def _browser() -> str:
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("No Chromium is here. Install one, or name one with CHROMIUM.")
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        raise SystemExit(__doc__)
    axe = Path(arguments[0]).read_text(encoding="utf-8")
    serious = 0
    for page in map(Path, arguments[1:]):
        for width in WIDTHS:
            for scheme in SCHEMES:
                found = violations(page, axe, width, scheme)
                print(f"{page}, {width} px, {scheme}: {len(found) or 'nothing'}")
                for one in found:
                    serious += one["impact"] in ("serious", "critical")
                    print(f"  {one['impact']}: {one['rule']}, {one['help']}\n    {'; '.join(one['where'][:4])}")
    return 1 if serious else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
