"""Runs commands one by one, each in a fork of a process that has imported everything, and measures how each ends."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES = 10, 2 * 10**9
"""What an input may cost: seconds of a processor, and resident memory, what was imported included."""
_WAITS = 6
"""Times as long as that a command may take, by the clock: other programs run, too, but nobody writes to a pipe."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    outcome: str
    """`accepted` (exit code 0), `refused` (2 and no traceback), or what went wrong."""
    said: str
    """The last lines of its standard error."""
    seconds: float
    """Of a processor."""
    bytes: int
    """The most resident memory."""

    @property
    def is_fine(self) -> bool:
        return self.outcome in ("accepted", "refused")


def warm() -> None:
    """Import what the commands import: a fork has it all, and computes with one thread."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    torch.set_num_threads(1)

    import lowregret.cli.app
    import lowregret.data.look
    import lowregret.export.peft
    import lowregret.report.export
    import lowregret.report.pages.document
    import lowregret.report.verification
    import lowregret.study.runner
    import lowregret.train.rl.evaluate  # noqa: F401
    from lowregret.models.load import load_base, resolve
    from lowregret.report.charts import inline

    load_base(resolve("tiny-32"))
    inline.inline = lambda spec, key: "<svg></svg>"  # what draws is another program, and takes seconds


def run(arguments: list[str], log: Path, seconds: int = SECONDS, most: int = BYTES, *, stop: bool = False) -> Ended:
    """Run one command line, its output to a file; it is killed when it takes longer or more memory.

    `stop`: a training ends, as by a kill, when it has written its first checkpoint.
    """
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        _be(arguments, log, stop)
    over, peak = "", 0
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        peak = max(peak, _resident(child))
        if peak > most:
            over = "too much memory"
        elif time.monotonic() - began > _WAITS * seconds:
            over = "waits"
        if over:
            os.killpg(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            break
        time.sleep(0.004)
    taken = used.ru_utime + used.ru_stime
    if not over and os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        over = "too long"
    peak = max(peak, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    text = log.read_text(errors="replace")
    return Ended(over or _outcome(os.waitstatus_to_exitcode(status), text), text[-600:], taken, peak)


def _be(arguments: list[str], log: Path, stop: bool) -> None:
    """The child, which never returns."""
    code = 70
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)  # as Python's own
        from lowregret.cli.app import run as command

        if stop:
            _stop_at_checkpoint()
        code = command(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stop_at_checkpoint() -> None:
    from lowregret.train import loop

    save = loop.save_checkpoint

    def last(*arguments: Any) -> None:
        save(*arguments)
        os._exit(0)

    loop.save_checkpoint = last  # type: ignore[attr-defined]


def _outcome(code: int, text: str) -> str:
    if code == 0 or (code == 1 and "DIFFERS" in text):  # what `verify` says of records that contradict each other
        return "accepted"
    if code < 0:
        return f"signal {-code}"
    if "Traceback (most recent call last)" in text:
        last = [line for line in text.strip().splitlines() if line and not line.startswith(" ")]
        return f"traceback {last[-1].partition(':')[0][:60]}"
    return "refused" if code == 2 else f"exit code {code}"


def _resident(process: int) -> int:
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0  # it has just ended, or this system has no /proc: then the peak at its end is looked at
