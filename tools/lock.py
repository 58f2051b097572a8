"""Write requirements.txt and requirements-dev.txt: the pins of constraints.txt with the hashes of all their files.

    uv pip compile --universal --no-deps --no-annotate --no-header --generate-hashes -o hashed.txt constraints.txt
    python tools/lock.py hashed.txt [WHEEL …]

Set-up installs them by `pip install --require-hashes --no-deps`. A WHEEL is a build of a pinned package that another
index has (torch's CPU build: `pip download --no-deps torch==VERSION`), whose hash is added.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.packages import ROOT, closure, pins

RUNTIME, DEV = ROOT / "requirements.txt", ROOT / "requirements-dev.txt"
_HEAD = """\
# {what}, with the hashes of all their files. Made by tools/lock.py from constraints.txt; do not edit.
"""


def hashes(text: str) -> dict[str, tuple[str, list[str]]]:
    """Of a requirements file: canonical name → (version, its hashes)."""
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry)
        if pin:
            found[canonicalize_name(pin[1])] = pin[2], sorted(set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", entry)))
    return found


def locked(what: str, names: set[str], known: dict[str, tuple[str, list[str]]]) -> str:
    """A requirements file of these packages; SystemExit names a pin that has no hash, or one of another version."""
    lines = [_HEAD.format(what=what)]
    for name, version in sorted(pins().items(), key=lambda pin: canonicalize_name(pin[0])):
        key = canonicalize_name(name)
        if key not in names:
            continue
        found, own = known.get(key, ("none", []))
        if found != version or not own:
            raise SystemExit(f"{name}=={version} has no hash (found: {found}). Make hashed.txt anew.")
        lines.append(f"{name}=={version} \\\n" + " \\\n".join(f"    --hash={each}" for each in own) + "\n")
    return "".join(lines)


def main(arguments: list[str]) -> None:
    if not arguments:
        raise SystemExit(__doc__)
    known = hashes(Path(arguments[0]).read_text(encoding="utf-8"))
    for wheel in map(Path, arguments[1:]):
        name, version, _, _ = parse_wheel_filename(wheel.name)
        if known.get(name, ("", []))[0] != version.public:
            raise SystemExit(f"{wheel}: constraints.txt pins another version of {name}.")
        with wheel.open("rb") as file:
            known[name][1].append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    runtime = closure()
    RUNTIME.write_text(locked("What lowregret needs to run", runtime, known), encoding="utf-8")
    DEV.write_text(
        locked("What the tests and checks need beside it", closure("dev") - runtime, known), encoding="utf-8"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
