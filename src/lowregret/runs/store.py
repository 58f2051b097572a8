"""An object store (S3, Google Cloud Storage, Azure), by obstore. An object is whole or absent; what does not answer is
an error within seconds. Credentials come from the environment, and are in no record."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from lowregret.errors import StoreError
from lowregret.foreign_text import redacted
from lowregret.limits import OBJECT_BYTES
from lowregret.runs.atomic import replacing

_URL = re.compile(r"(s3|gs|az)://[\w.-]+(/[\w.=+-]+)*/?")
_RETRY = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_CLIENT = {"connect_timeout": "3 seconds", "timeout": "120 seconds"}
_PIECE_BYTES = 64 * 2**20
_SAID_CHARACTERS = 300


def is_url(text: str) -> bool:
    """Whether something can be kept there."""
    return _URL.fullmatch(text) is not None and "/.." not in text


def require_url(text: str) -> str:
    """An address as it is kept; StoreError for one that is none."""
    if not is_url(text):
        raise StoreError(
            f"--store {redacted(text)}: give s3://BUCKET/NAME, gs://BUCKET/NAME or az://CONTAINER/NAME. Credentials "
            "are taken from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; "
            "GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME and _KEY) or from the machine's role."
        )
    return text.rstrip("/")


class _GoneError(Exception):
    """An object that is to be fetched is not there."""


class Store:
    """What lies under an address."""

    def __init__(self, url: str) -> None:
        """StoreError for an address that is none, or when obstore is not installed. Nothing is asked yet."""
        self.url = require_url(url)
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ImportError:
            raise StoreError(
                "--store needs the package obstore. Install it by `pip install 'lowregret[store]'`."
            ) from None
        self._obstore = obstore
        plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
        options: dict[str, Any] = {"client_options": {**_CLIENT, "allow_http": plain}, "retry_config": _RETRY}
        if self.url.startswith("s3:"):  # one delete a request: what speaks S3 has that, not always deletes of many
            options["config"] = {"disable_bulk_delete": True}
        with self._answering(""):
            self._store: Any = obstore.store.from_url(self.url, **options)

    def get(self, key: str) -> bytes | None:
        """A small object; None where there is none. StoreError for one above `OBJECT_BYTES`, before it is read."""
        with self._answering(key):
            try:
                found = self._obstore.get(self._store, key)
                if (size := found.meta["size"]) <= OBJECT_BYTES:
                    return bytes(found.bytes())
            except FileNotFoundError:
                return None
        raise StoreError(f"{self.url}/{key}: has {size:,} bytes, above the limit of {OBJECT_BYTES:,}. It is not ours.")

    def fetch(self, key: str, path: Path, size: int) -> bool:
        """An object of so many bytes as a file; False where there is none."""
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                for start in range(0, size, _PIECE_BYTES):
                    file.write(self._piece(key, start, min(_PIECE_BYTES, size - start)))
        except _GoneError:
            return False
        return True

    def _piece(self, key: str, start: int, length: int) -> bytes:
        with self._answering(key):
            try:
                return bytes(self._obstore.get_range(self._store, key, start=start, length=length))
            except FileNotFoundError:
                raise _GoneError from None

    def put(self, key: str, content: bytes | Path) -> None:
        """An object, in the place of one that is there."""
        with self._answering(key):
            self._obstore.put(self._store, key, content)

    def create(self, key: str, content: bytes) -> bool:
        """A small object, unless there is one: of several who ask one gets True."""
        with self._answering(key):
            try:
                self._obstore.put(self._store, key, content, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def keys(self, folder: str) -> list[str]:
        """All below a folder, in order."""
        with self._answering(folder):
            return sorted(each["path"] for some in self._obstore.list(self._store, folder) for each in some)

    def remove(self, key: str) -> None:
        """An object, if it is there."""
        with self._answering(key):
            try:
                self._obstore.delete(self._store, key)
            except FileNotFoundError:
                return

    @contextmanager
    def _answering(self, key: str) -> Iterator[None]:
        """StoreError for what the store, or the way to it, says instead of an answer."""
        errors = self._obstore.exceptions
        try:
            yield
        except errors.AlreadyExistsError:
            raise
        except (errors.BaseError, FileNotFoundError, PermissionError) as error:
            said = " ".join(str(error).partition("Debug source")[0].split())
            raise StoreError(
                f"{self.url}: no answer for {key or 'it'}: {redacted(said)[:_SAID_CHARACTERS]}. Is the address right "
                "(and AWS_ENDPOINT_URL, where it is not Amazon's), does the bucket exist, and do the "
                "credentials in the environment let read, list, write and delete there?"
            ) from None
