"""What a machine must have in common with the one that runs a study: its folder, and the versions that numbers depend
on. Torch-free, so that a machine is asked in a second."""

from __future__ import annotations

import platform
import time
from pathlib import Path

from lowregret import environment
from lowregret.errors import ClusterError, StoreError
from lowregret.runs.files import STUDY
from lowregret.runs.holder import held_by
from lowregret.runs.lease import leases_in
from lowregret.runs.mirror import MANIFESTS
from lowregret.runs.store import Store
from lowregret.study.execute.job import Expected

_ALIKE = ("lowregret", "torch", "transformers", "tokenizers")
_SEEN_SECONDS = 15.0
"""How long a shared folder may take to show on one machine what another has written: NFS keeps attributes for a
while."""


def versions() -> dict[str, str]:
    """Name → version; Python's to the minor one, torch's without its build, which differs by device."""
    there = {name: version.partition("+")[0] for name, version in environment.versions().items() if name in _ALIKE}
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **there}


def expected_of(study: Path, store: str | None = None) -> Expected:
    """What this machine, which has locked the study's folder, asks others for."""
    return Expected(Path.cwd(), study.absolute(), held_by(study) or "", tuple(versions().items()), store)


def require_shared(expected: Expected, seconds: float = _SEEN_SECONDS) -> None:
    """ClusterError when this machine does not see the study's folder or the working folder, or has other versions than
    the one that runs the study."""
    here, own = platform.node(), versions()
    differing = [
        f"{name} {own.get(name, 'not at all')} instead of {there}"
        for name, there in expected.versions
        if own.get(name) != there
    ]
    if differing:
        raise ClusterError(
            f"the worker on {here} has {', '.join(differing)}. Install there what runs the study: the numbers of one "
            "study come from one program."
        )
    if expected.store is not None:
        _require_store(expected.store, here)
        return
    end = time.monotonic() + seconds
    while held_by(expected.study) != expected.token:
        if time.monotonic() > end:
            found = "is another folder there" if (expected.study / STUDY).exists() else "is not there"
            raise ClusterError(
                f"the worker on {here} does not share the study's folder: {expected.study} {found}. Name an --out on "
                "storage that all machines have under the same path, or a store that all reach (--store s3://BUCKET/NAME)."
            )
        time.sleep(0.2)
    if not expected.working_folder.is_dir():
        raise ClusterError(
            f"the worker on {here} has no {expected.working_folder}, where the study was started. Start it in a folder "
            "that all machines have under the same path."
        )


def _require_store(url: str, here: str) -> None:
    """ClusterError unless this machine reads the study's part in the store."""
    try:
        store = Store(url)
        there = store.keys(MANIFESTS) or leases_in(store)  # before its first trial a study has a writer alone
    except StoreError as error:
        raise ClusterError(f"the worker on {here}: {error} Its own environment is meant.") from None
    if not there:
        raise ClusterError(f"the worker on {here} finds no study in {url}: its AWS_ENDPOINT_URL may be another one.")


def problem_here(expected: Expected) -> str:
    """What `require_shared` says on this machine; empty when all is well."""
    try:
        require_shared(expected)
    except ClusterError as error:
        return str(error)
    return ""
