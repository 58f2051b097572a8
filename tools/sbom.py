"""Write build/sbom.json: what is installed here for lowregret, as CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/).

python tools/sbom.py [--runtime]
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from lowregret.strict_json import to_json

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.licences import OTHERWISE
from tools.packages import ROOT, closure, licence

FILE = ROOT / "build" / "sbom.json"


def bill(*extras: str) -> dict[str, Any]:
    """The components that are installed, of the requirements of pyproject.toml with these extras."""
    installed = {canonicalize_name(found.metadata["Name"]): found for found in importlib.metadata.distributions()}
    names = sorted(name for name in closure(*extras) if name in installed)
    version = importlib.metadata.version("lowregret")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "lowregret", "version": version}},
        "components": [_component(name, installed[name].version) for name in names],
    }


def _component(name: str, version: str) -> dict[str, Any]:
    address = f"pkg:pypi/{name}@{version}"
    said = licence(name) or OTHERWISE.get(name, "")
    licences = {"licenses": [{"license": {"name": said}}]} if said else {}
    return {"type": "library", "name": name, "version": version, "purl": address, "bom-ref": address, **licences}


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(to_json(bill(*(() if "--runtime" in sys.argv else ("dev",))), indent=2) + "\n", encoding="utf-8")
    print(FILE)
