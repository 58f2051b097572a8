"""A shipped folder sent to the hub: one commit with all its files, held against what has arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    RepoFile,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from lowregret.errors import HubError, RecordsError, SpecError
from lowregret.export.hub_base import CARD, is_hub_id
from lowregret.export.places import refuse_places
from lowregret.foreign import boundary, real_path, reason
from lowregret.runs.atomic import read_record
from lowregret.runs.manifest import digests
from lowregret.runs.proof import PROOF, Proof

_ITS_OWN = (".gitattributes",)
"""Files that the hub puts into a new repository itself."""
_LOG_IN = "Log in by `hf auth login`, or set HF_TOKEN to a token with the right to write (hf.co/settings/tokens)."
_LATER = "Nothing is published by half: run the same command again."
_SAID = {
    401: ("does not know the token, or it has run out", _LOG_IN),
    403: ("does not let this token write there", _LOG_IN),
    404: ("does not know the repository, or this token may not see it", _LOG_IN),
    409: ("is at another change of the repository", _LATER),
    413: ("does not take files as large as these", "Ship the model in smaller shards (--shard-size)."),
    429: ("has had too many requests", _LATER),
}
"""Of an HTTP status: what the hub says by it (RFC 9110, 15.5), and what to do."""


def push(folder: Path, name: str, *, private: bool = True, overwrite: bool = False) -> str:
    """Publish a folder as the model repository ORG/NAME, or NAME of the user's own, and return its address.

    The repository is made if need be, and all files come in one commit, so that it never holds half a model; then size
    and hash of each are compared with what the hub says that it has. With `overwrite` the files of a repository that is
    not empty are replaced, and those that the folder does not have are deleted; its history keeps them.

    Args:
        folder: with a proof.json that holds for the weights that lie there, and a card.
        private: of a new repository; one that is public already is refused then.

    The token is the user's own (`hf auth login`, HF_TOKEN). Raises SpecError for a name that is none and for a
    repository that is not empty or is public, RecordsError for a folder that is not proved, HubError when the hub
    refuses or cannot be reached.
    """
    files = _files(folder)
    _require_proof(folder)
    _require_card(folder)
    refuse_places(folder)
    if not is_hub_id(name if "/" in name else f"me/{name}"):
        raise SpecError(f"--push {name!r}: is no name of a repository. Give ORG/NAME, or NAME for one of your own.")
    if get_token() is None:
        raise HubError(f"--push {name}: nobody is logged in. {_LOG_IN}")
    api = HfApi()
    with _refusals(name):
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        parent, old = _there(api, repository, private, overwrite)
        stale = sorted(set(old) - set(files) - set(_ITS_OWN))
        changes: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationAdd(path, folder / path) for path in files),
            *(CommitOperationDelete(path, is_folder=False) for path in stale),
        ]
        message = f"Ship {real_path(folder).name}"
        commit = api.create_commit(repository, changes, commit_message=message, parent_commit=parent)
        _compare(api, repository, commit.oid, folder, files)
    return f"{api.endpoint}/{repository}"


def _files(folder: Path) -> list[str]:
    """The files of a folder by their paths in it; hidden ones stay here. RecordsError for links, and for none."""
    found = []
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue
        if path.is_symlink():
            raise RecordsError(f"{path}: is a link, which is not published. Put the file itself there.")
        if path.is_file():
            found.append(place.as_posix())
    if not found:
        raise RecordsError(f"{folder}: holds no files. Name the folder that `lowregret ship` has written.")
    return found


def _require_proof(folder: Path) -> None:
    """RecordsError unless proof.json is there, holds, and is of the weights that are there."""
    file, again = folder / PROOF, "Ship the model again, which proves it."
    if not file.is_file():
        raise RecordsError(f"{file}: there is none, so that nobody knows whether this is the model. {again}")
    proof = read_record(Proof, file)
    if not proof.holds:
        raise RecordsError(f"{file}: says that the proof does not hold (bound: {proof.bound}). {again}")
    missing = [name for name in proof.files if not (folder / name).is_file()]
    if missing or not proof.files:
        raise RecordsError(f"{file}: is of {missing[0] if missing else 'no weights'}, which is not there. {again}")
    now = digests({name: folder / name for name in proof.files})
    changed = [name for name, digest in proof.files.items() if now[name] != digest]
    if changed:
        raise RecordsError(f"{folder / changed[0]}: has changed since {PROOF} was written. {again}")


def _require_card(folder: Path) -> None:
    file = folder / CARD
    if not file.is_file():
        raise RecordsError(f"{file}: there is no card. Ship the model again, which writes it.")
    with boundary(RecordsError, file, "cannot be read as a card", "Correct its metadata, between the lines of `---`."):
        ModelCard(file.read_text(encoding="utf-8"))


def _there(api: HfApi, repository: str, private: bool, overwrite: bool) -> tuple[str | None, list[str]]:
    """The commit that a repository is at, and its files; SpecError when it may not be published into."""
    now = api.repo_info(repository)
    if private and not now.private:
        raise SpecError(
            f"--push {repository}: is public already, and a private one was asked for. Make it private there, name "
            "another, or say --public."
        )
    found = list(api.list_repo_files(repository))
    held = [path for path in found if path not in _ITS_OWN]
    if held and not overwrite:
        raise SpecError(
            f"--push {repository}: holds {len(held)} files already ({held[0]}, …). Name another, or say --overwrite to "
            "replace them."
        )
    return now.sha, found


def _compare(api: HfApi, repository: str, commit: str, folder: Path, files: Sequence[str]) -> None:
    """HubError when a file of the commit is not what lies here: by SHA-256 of large ones, by git's hash of others."""
    found = {entry.path: entry for entry in api.get_paths_info(repository, list(files), revision=commit)}
    for path in files:
        entry = found.get(path)
        own = folder / path
        if not isinstance(entry, RepoFile) or entry.size != own.stat().st_size:
            raise HubError(f"{repository}: {path} has not arrived whole. {_LATER} --overwrite replaces what is there.")
        there = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
        if there != (digests({path: own})[path] if entry.lfs is not None else _blob(own)):
            raise HubError(f"{repository}: {path} arrived as other bytes. {_LATER} --overwrite replaces what is there.")


def _blob(file: Path) -> str:
    """git's hash of a file's content: SHA-1 of its length and its bytes."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """What huggingface_hub raises, as HubError with the remedy."""
    place = f"--push {name}"
    try:
        with boundary(HubError, place, "the hub cannot be reached, or broke off", _LATER):
            yield
    except HubError as error:
        cause = _first(error)
        if isinstance(cause, OfflineModeIsEnabled):
            raise HubError(f"{place}: HF_HUB_OFFLINE keeps it from the hub. Unset it.") from cause
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            what, remedy = _SAID.get(status, ("has failed" if status >= 500 else "refuses", _LATER))
            said = cause.server_message or reason(cause)
            raise HubError(f"{place}: the hub {what} (HTTP {status}: {said}). {remedy}") from cause
        raise


def _first(error: BaseException) -> BaseException:
    """The error of the hub's among those that led to this one, or the last of them."""
    while error.__cause__ is not None:
        error = error.__cause__
        if isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
            break
    return error
