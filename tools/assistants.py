"""Writes llms.txt: the pages by what they tell, with their addresses, for programs that read the documentation.

    python tools/assistants.py

It is made of docs/pages.toml; a test says when it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.pages import HOME, RAW, ROOT, listed, sections, to_translate, translation

FILE = ROOT / "llms.txt"
_HEAD = """\
# lowregret

> LoRA or full fine-tuning? For a model, data and hardware: lowregret plans, trains both ways, measures the regret (best
> LoRA held-out loss minus best full fine-tuning held-out loss) with a 95 % interval, and ships the winner.

Work on the code itself: [AGENTS.md]({home}AGENTS.md). Use: `pip install -e .`, then `lowregret --help`. Every verb
takes `--json`; wrong input ends with exit code 2 and says what to do. In Python: `lowregret.make_plan`,
`lowregret.compare`, `lowregret.fine_tune`, `lowregret.Engine`, `lowregret.load_base`.
"""


def text() -> str:
    """The whole file: a section for each of the site's, and the Chinese pages at the end."""
    lines = [_HEAD.format(home=HOME)]
    for title, pages in sections():
        lines.append(f"\n## {title['en']}\n\n")
        for page in pages:
            lines.append(f"- [{page.title['en']}]({RAW}{page.path}): {page.about['en']}\n")
            if page.path == "docs/reference/index.md":
                lines += [f"- [{each.title['en']}]({RAW}{each.path})\n" for each in listed("docs/reference")]
    lines.append("\n## Optional\n\n")
    lines += [
        f"- [{path}, in Chinese]({RAW}{translation(path).relative_to(ROOT).as_posix()})\n" for path in to_translate()
    ]
    return "".join(lines)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
