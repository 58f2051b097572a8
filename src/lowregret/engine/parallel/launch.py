"""The processes of one training, one a device: started from here, or by torchrun.

`crew(count)` makes this process rank 0 and starts the others on this machine, as `parallel/follow.py`. Under torchrun,
which has started one on every device of every node, rank 0 runs the program and the others come here at once.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from lowregret.engine.parallel.lead import Lead
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.errors import RanksError, SpecError

_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MEET = "LOWREGRET_MEET"
"""The file by which the processes on one machine find each other."""
_INTERFACE = "GLOO_SOCKET_IFNAME"
_PATIENCE = timedelta(days=7)
"""How long one may wait for another: rank 0 may be reading data or grading. One that has ended is noticed at once."""
_GRACE_SECONDS = 5.0
_SAID = 2000
"""Characters of what a process that has ended said last."""


@dataclass
class _Crew:
    """What rank 0 has started, or found started."""

    ranks: Ranks
    lead: Lead | None = None
    kind: str = ""
    """Of the devices; empty before they have places in a mesh."""
    dimensions: tuple[int, ...] = ()
    """Of the mesh: replicate, expert, tensor."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of torch, before the machine was shared."""
    folder: Path | None = None
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    loopback: bool = False
    """Whether they were told to talk over the machine's own network, by a variable of the environment."""
    ended: str | None = None
    """What is known of the first that ended before it was told to."""


_crew = _Crew(ALONE)
_met = False
"""Whether this process has led others: those that torchrun has started come once."""


def started_by_torchrun(environ: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """(rank, ranks) of a process that torchrun has started beside others; None for any other."""
    if not all(environ.get(name) for name in _BY_TORCHRUN) or environ["WORLD_SIZE"] == "1":
        return None
    return int(environ["RANK"]), int(environ["WORLD_SIZE"])


def device_count(asked: int) -> int:
    """How many train together: as many as asked, or under torchrun as it has started, which must be no other number."""
    by_torchrun = started_by_torchrun()
    if by_torchrun is None:
        return asked
    if asked not in (1, by_torchrun[1]):
        raise SpecError(f"--devices {asked}: torchrun has started {by_torchrun[1]}. Leave --devices out.")
    return by_torchrun[1]


def crew(count: int, device: str = "auto", *, replicate: int = 1, expert: int = 1, tensor: int = 1) -> Ranks:
    """The ranks of this program, which leads them: `count` on this machine, or those that torchrun has started,
    arranged as `Ranks.of_group` has it.

    They are started when first asked for, and end with the program. SpecError when there are not as many devices.
    """
    if count == 1:
        dismiss()
        return ALONE
    local = started_by_torchrun() is None
    kind = require_devices(count, device, local=local)
    if _crew.lead is None or _crew.lead.count != count or _crew.lead.broken:
        dismiss()
        _meet(count, local=local)
    assert _crew.lead is not None
    dimensions = (replicate, expert, tensor)
    if (_crew.kind, _crew.dimensions) != (kind, dimensions):
        _crew.lead.call(_take_places, (_crew.lead, kind, dimensions), {})
    return _crew.ranks


def _meet(count: int, *, local: bool) -> None:
    """Start the others, or find those that torchrun has started; SpecError where these are not to be led."""
    global _crew, _met
    by_torchrun = started_by_torchrun()
    if by_torchrun is not None and by_torchrun[0]:
        raise SpecError("torchrun is to start the program itself: torchrun … -m lowregret train …")
    if by_torchrun is not None and _met:
        raise RanksError("the other processes have ended. Start torchrun again: it goes on from the last checkpoint.")
    _met = True
    _crew = _Crew(ALONE)
    if local:
        _start(_crew, count)
    try:
        lead = _join(0, count, None if _crew.folder is None else _crew.folder / "meet")
    except RuntimeError as error:
        dismiss()
        raise RanksError(f"the {count} processes did not find each other: {error}") from None
    atexit.register(dismiss)
    lead.lost = partial(_known_end, _crew)
    _crew.lead = lead


def require_devices(count: int, device: str, *, local: bool = True) -> str:
    """The kind of device that each of `count` processes gets one of; SpecError when this machine has not as many."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device).type
    if count > 1 and device not in ("auto", kind):
        raise SpecError(f"--device {device} is one device, and --devices {count} asks for more: use --device {kind}.")
    if local and kind == "cuda" and count > torch.cuda.device_count():
        raise SpecError(
            f"--devices {count}: this machine has {torch.cuda.device_count()} GPUs. Use --devices "
            f"{torch.cuda.device_count()}, or start it on several machines with torchrun (docs/scale.md)."
        )
    return kind


def dismiss() -> None:
    """Let the others go, and wait for them. Those that are left in the middle of something are ended."""
    global _crew
    gone, _crew = _crew, _Crew(ALONE)
    if gone.lead is None and not gone.others:
        return
    atexit.unregister(dismiss)
    try:
        if gone.lead is not None and not gone.lead.broken:
            gone.lead.end()
            for process in gone.others:
                process.wait(_GRACE_SECONDS)
    except (RuntimeError, subprocess.TimeoutExpired):
        pass  # they are gone, or do not answer
    finally:
        for process in gone.others:
            process.kill()
            process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(gone.threads)
        if gone.loopback:
            os.environ.pop(_INTERFACE, None)
        if gone.folder is not None:
            shutil.rmtree(gone.folder, ignore_errors=True)


def follow() -> None:
    """The life of any rank but the first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank 0 decides when to stop; it has been told as well
    if _MEET in os.environ:
        threading.Thread(target=_end_with_rank_0, daemon=True).start()
    try:
        meet = Path(os.environ[_MEET]) if _MEET in os.environ else None
        _join(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), meet).follow()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def follow_if_told() -> bool:
    """Whether this process is one that follows; then it has followed to the end."""
    by_torchrun = started_by_torchrun()
    if by_torchrun is None or by_torchrun[0] == 0:
        return False
    follow()
    return True


def release() -> None:
    """Rank 0, at its end: others that torchrun has started and nobody has needed are let go."""
    by_torchrun = started_by_torchrun()
    if by_torchrun is not None and not _met:
        _meet(by_torchrun[1], local=False)
    dismiss()


def ranks_here() -> Ranks:
    """Those that this process trains with, as the last `crew` has left them."""
    return _crew.ranks


def _start(found: _Crew, count: int) -> None:
    """The other processes, on this machine. They meet by a file, and talk over the loopback interface alone."""
    folder = found.folder = Path(tempfile.mkdtemp(prefix="lowregret-ranks-"))
    found.loopback = sys.platform == "linux" and _INTERFACE not in os.environ
    if found.loopback:
        os.environ[_INTERFACE] = "lo"
    for rank in range(1, count):
        own = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), _MEET: str(folder / "meet")}
        with (folder / f"said{rank}").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "lowregret.engine.parallel.follow"],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for this process: it decides
                env=os.environ | own,
            )
        found.others.append(process)
        threading.Thread(target=_watch, args=(found, rank, process), daemon=True).start()


def _watch(of: _Crew, rank: int, process: subprocess.Popen[bytes]) -> None:
    """Note that a process has ended. A call that waits for it fails by itself where the network tells; else, and where
    it is waited for before they have met, the program is ended here."""
    code = process.wait()
    if _crew is not of:
        return
    assert of.folder is not None
    said = (of.folder / f"said{rank}").read_text(errors="replace").strip()[-_SAID:]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    of.ended = of.ended or f"the process of rank {rank} {how}{': ' if said else '.'}{said}"
    if of.lead is not None:
        time.sleep(2 * _GRACE_SECONDS)
    if _crew is of and (of.lead is None or of.lead.inside):
        print(f"error: {of.ended}", file=sys.stderr, flush=True)
        os._exit(RanksError.exit_code)


def _known_end(of: _Crew) -> str | None:
    """What is known of a process that does not answer; it may take a moment until its end is noticed."""
    end = time.monotonic() + _GRACE_SECONDS
    while of.ended is None and of.others and time.monotonic() < end:
        time.sleep(0.05)
    return of.ended


def _join(rank: int, count: int, meet: Path | None) -> Lead:
    """Meet the others: by a file where all are on one machine; else as torchrun says."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    where = "env://" if meet is None else f"file://{meet}"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=count, timeout=_PATIENCE)
    return Lead(rank, count)


def _take_places(lead: Lead, kind: str, dimensions: tuple[int, ...]) -> None:
    """On each rank: its device, and its place in the mesh of all."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    if kind == "cuda":
        torch.cuda.set_device(local)
    else:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", lead.count))
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // beside)))
    replicate, expert, tensor = dimensions
    _crew.ranks = Ranks.of_group(kind, lead, replicate=replicate, expert=expert, tensor=tensor)
    _crew.kind, _crew.dimensions = kind, dimensions


def _end_with_rank_0() -> None:
    """Rank 0 holds the other end for as long as it lives; one that is killed cannot tidy up."""
    sys.stdin.buffer.read()
    shutil.rmtree(Path(os.environ[_MEET]).parent, ignore_errors=True)
    os._exit(1)
