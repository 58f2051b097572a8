"""`manifest.json`: what a run's numbers depend on beside its spec, by content.

It is written once. A folder whose manifest names another content goes on with nothing: no number may come from a base,
from data or from a reward other than the ones that the folder's other numbers came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import Field

from lowregret.digests import digest_files
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_record, write_json
from lowregret.runs.files import CHECKPOINT, MANIFEST, SPEC
from lowregret.runs.record import Record
from lowregret.spec import TrainingSpec
from lowregret.strict_json import to_json

_GROWN = ("methods", "seeds", "seeds_at", "learning_rates", "start_from", "tolerance", "tolerance_of")
"""Fields that a folder may be asked anew with (`runs.extension`, `study.group`): no trial depends on them."""


class Manifest(Record):
    """Digests are SHA-256, hexadecimal."""

    base: Mapping[str, str]
    """File → digest: weights, settings, tokenizer and templates."""
    chat_template: str | None = None
    """Of the template in use; None without one."""
    train: str
    """Of what is trained on: the tokens and which are supervised; with rewards the prompts' tokens and whole rows."""
    test: str
    """Of what it is judged by."""
    sources: Mapping[str, str] = Field(default_factory=dict)
    """Data source and split → a hash of what lies there (`OpenSource.fingerprint`). It tells `verify`, without a
    tokenizer, whether the data are still the same; a run itself goes by `train` and `test`."""
    reward: Mapping[str, str] = Field(default_factory=dict)
    """File → digest of a reward function's source."""
    adopted: bool = Field(default=False, exclude_if=lambda value: value is False)
    """A run of an earlier version was going on in the folder: its checkpoint has no digest."""
    versions: Mapping[str, str] = Field(default_factory=dict)
    """Package → version, of the first session."""

    def differences(self, now: Manifest, *, held_out_grows: bool = False) -> Iterator[str]:
        """What is another content now, in words. `held_out_grows`: more held-out examples may be asked for, which
        spec.json judges."""
        yield from _changed("the base's ", self.base, now.base)
        if self.chat_template != now.chat_template:
            yield "the chat template"
        if self.train != now.train:
            yield "the training data"
        if self.test != now.test and not held_out_grows:
            yield "the held-out data"
        yield from _changed("the reward's ", self.reward, now.reward)


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Name → SHA-256 of a file; RecordsError when one cannot be read."""
    try:
        return dict(zip(files, digest_files(list(files.values())), strict=True))
    except OSError as error:
        raise RecordsError(f"{error.filename}: cannot be read ({error.strerror}).") from error


def read_manifest(folder: Path) -> Manifest | None:
    """A folder's manifest.json; None in folders of earlier versions."""
    file = folder / MANIFEST
    return read_record(Manifest, file) if file.exists() else None


def manifest_over(folder: Path) -> tuple[Path, Manifest] | None:
    """(the run folder, its manifest) of the run that an adapter or a model in it comes from; None when it lies in
    none."""
    for above in (folder.absolute(), *folder.absolute().parents):
        if (above / SPEC).is_file() and (manifest := read_manifest(above)) is not None:
            return above, manifest
    return None


def require_manifest(folder: Path, now: Manifest, say: Callable[[str], None], *, held_out_grows: bool) -> None:
    """See that a folder's manifest.json, if it has one, names the same content; RecordsError tells what it does not.

    Other versions of packages are said: they may change last digits.
    """
    there = read_manifest(folder)
    if there is None:
        return
    changed = list(there.differences(now, held_out_grows=held_out_grows))
    if changed:
        raise RecordsError(
            f"{folder}: its numbers come from other content than is there now: {_listed(changed)} changed since. "
            "Bring back what was there, or use another --out."
        )
    if others := other_versions(there, now):
        say(f"{folder} was begun with other versions: {'; '.join(others)}. Last digits may differ.")


def other_versions(there: Manifest | None, now: Manifest) -> list[str]:
    """Of the packages that numbers depend on, those that are of another version now, in words."""
    return [
        f"{name} {then} then, {now.versions.get(name, 'none')} now"
        for name, then in ({} if there is None else there.versions).items()
        if now.versions.get(name) != then
    ]


def note_manifest(folder: Path, now: Manifest) -> None:
    """Write it once; what grows, the held-out data, is taken over."""
    there = read_manifest(folder)
    if there is None:
        write_json(folder / MANIFEST, now.model_copy(update={"adopted": (folder / CHECKPOINT).exists()}))
    elif there.test != now.test:
        write_json(folder / MANIFEST, there.model_copy(update={"test": now.test, "sources": now.sources}))


def identity(spec: TrainingSpec, manifest: Manifest) -> str:
    """A digest of all that a trial's numbers depend on beside the trial: the same in another run, so are they."""
    asked = spec.model_dump(mode="json", exclude={*TrainingSpec.FREE, *_GROWN})
    asked["data"].pop("max_eval")
    content = manifest.model_dump(mode="json", exclude={"test", "sources", "adopted", "versions"})
    return hashlib.sha256(to_json([asked, content], sort_keys=True).encode()).hexdigest()


def _changed(whose: str, there: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*there, *now}):
        if name not in now:
            yield f"{whose}{name} (it is gone)"
        elif name not in there:
            yield f"{whose}{name} (it is new)"
        elif there[name] != now[name]:
            yield f"{whose}{name}"


def _listed(names: list[str]) -> str:
    shown = names[:4] + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
