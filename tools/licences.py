"""Write docs/licences.md: every package that set-up installs, with its licence, from the metadata of what is installed.

python tools/licences.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.utils import canonicalize_name

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.packages import ROOT, closure, licence, pins

PAGE = ROOT / "docs" / "licences.md"
OTHERWISE = {"zss": "BSD-3-Clause (https://github.com/timtadh/zhang-shasha, LICENSE)"}
"""Packages whose metadata say nothing, and where their licence was read."""
_HEAD = """\
# Licences of what is installed

lowregret is under Apache-2.0. These packages come with it, or with its tests and checks; each licence is what the
package's own metadata say. Made by `make licences`.

| package | version | licence | for |
|---|---|---|---|
"""

_VENDORED = """
## Part of the package
| files | version | licence | for |
|---|---|---|---|
| uPlot (github.com/leeoniya/uPlot), `watch/page/vendor/` | 1.6.32 | MIT (`uplot-licence.txt`) | watch |
"""


def table() -> dict[str, str]:
    """Package → its licence; SystemExit names one that cannot be known."""
    found = {name: licence(name) or OTHERWISE.get(name, "") for name in pins()}
    unknown = sorted(name for name, said in found.items() if not said)
    if unknown:
        raise SystemExit(f"no licence in the metadata of {', '.join(unknown)}: read it, and add it to OTHERWISE.")
    return found


def page() -> str:
    """The whole page."""
    runtime, versions = closure(), pins()
    lines = [_HEAD]
    for name, said in table().items():
        use = "running" if canonicalize_name(name) in runtime else "tests"
        lines.append(f"| {name} | {versions[name]} | {said} | {use} |\n")
    return "".join([*lines, _VENDORED])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
