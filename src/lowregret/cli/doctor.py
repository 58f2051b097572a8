"""`lowregret doctor`."""

from __future__ import annotations

from dataclasses import asdict

from lowregret.cli import options as o
from lowregret.cli.codes import DIFFERS
from lowregret.cli.command import verb
from lowregret.cli.outcome import say, say_json

_MARKS = {"ok": "ok  ", "note": "note", "problem": "!!  "}


@verb("doctor")
def doctor(*, as_json: o.Json = False) -> None:
    """Versions, extras, torch's build, GPUs, memory, disks, caches, rights to write and the hub's settings: what a bug
    report needs. Of tokens and keys it says whether they are set, never what they are. Nothing is changed, and no
    network is used.

    Exit code 0 when nothing is wrong, 1 when something is, with what to do about it.
    """
    from lowregret.cli.health import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            say(f"{_MARKS[check.state]} {check.name}: {check.found}")
            if check.remedy:
                say(f"       {check.remedy}")
    problems = sum(check.state == "problem" for check in checks)
    if as_json:
        say_json({"ok": not problems, "checks": [asdict(check) for check in checks]})
    else:
        say(f"{problems} problem{'s' * (problems != 1)}" if problems else "all is well")
    if problems:
        raise SystemExit(DIFFERS)
