"""Python processes that form a gloo group on this machine; imported by name."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 240


def together(count: int, module: str, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` of a file under tests/ gives on each of `count` ranks.

    RuntimeError with what they said when one fails, or none is done in time; all are ended then.
    """
    asked = folder / "asked.pickle"
    asked.write_bytes(pickle.dumps((module, function.__name__, arguments)))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank), str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=LIMIT_SECONDS)[0] for process in processes]
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{count} ranks were not done after {error.timeout} s") from None
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(said))
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _main(folder: Path, rank: int, count: int) -> None:
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    import importlib

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    module, name, arguments = pickle.loads((folder / "asked.pickle").read_bytes())
    found = getattr(importlib.import_module(module), name)(*arguments)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
