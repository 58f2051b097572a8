"""K-quants, by llama.cpp's own program: the gguf package has none of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lowregret.errors import ModelError
from lowregret.export.gguf.kinds import KINDS

PROGRAM = "llama-quantize"


def quantizer(kind: str) -> str:
    """Where the program is; ModelError when it is not on the PATH."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise ModelError(
            f"{kind} is made by {PROGRAM}, which is not on the PATH. Install llama.cpp (its releases have it), or "
            f"write one of {', '.join(KINDS)}."
        )
    return found


def quantize(program: str, source: Path, target: Path, kind: str) -> None:
    """Quantise a file of F32; ModelError with the program's last line when it does not."""
    done = subprocess.run(
        [program, str(source), str(target), kind], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode or not target.stat().st_size:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ModelError(f"{PROGRAM} ended with {done.returncode} ({said[-1]:.200}). Write another kind.")
