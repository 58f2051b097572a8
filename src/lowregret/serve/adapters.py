"""The adapters that are served: loaded, replaced and taken off while others are drawn for.

A name that is loaded anew is a new policy: who is being answered by the old weights goes on with them, and the old
policy is taken off when the last of them has ended, and the rows of those who left have gone.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from lowregret.errors import LowregretError, SpecError
from lowregret.export.peft import load_adapter
from lowregret.foreign_text import last_part, without_paths
from lowregret.serve.problems import Problem
from lowregret.serve.worker import Worker

_NAME = re.compile(r"[A-Za-z0-9][\w.:-]{0,127}", re.ASCII)
BASE = "base"


@dataclass(eq=False)
class Served:
    """A model that requests name: the base, or an adapter on it."""

    name: str
    policy: str
    """On the engine."""
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0
    """Requests that are being answered by it."""
    gone: bool = False
    """Whether its name stands for other weights now, or for none."""


@final
class Adapters:
    """The base and its adapters by name. All but the loading itself happens in the event loop's thread."""

    def __init__(self, worker: Worker, base: str, root: Path | None, most: int) -> None:
        """`root`: adapters are loaded from below it alone; None loads none on request."""
        self._worker, self._most = worker, most
        self._root = None if root is None else root.resolve()
        self._models = {base: Served(base, BASE)}
        self.base = base
        self._versions = 0
        self._loading: set[str] = set()

    @property
    def models(self) -> Mapping[str, Served]:
        """By name, the base first."""
        return self._models

    @contextmanager
    def using(self, name: str) -> Iterator[Served]:
        """The model of this name, which stays meanwhile. Problem 404 when there is none."""
        found = self._models.get(name)
        if found is None:
            known = ", ".join(list(self._models)[:20])
            raise Problem(
                404,
                f"The model {name[:100]!r} does not exist. There are: {known}.",
                param="model",
                code="model_not_found",
            )
        found.users += 1
        try:
            yield found
        finally:
            found.users -= 1
            if found.gone and not found.users:
                self._retire(found)

    async def load(self, name: str, path: str, *, replace: bool = False) -> None:
        """Load an adapter by its path below the root. Problem when it may not be, or cannot be."""
        if not _NAME.fullmatch(name):
            raise Problem(
                400, "lora_name: 1 to 128 letters, digits and . _ : - are needed, the first no sign.", param="lora_name"
            )
        if name == self.base or (name in self._models and not replace):
            raise Problem(
                400,
                f"The name {name!r} is taken. Unload it first, or ask with load_inplace.",
                param="lora_name",
                code="name_taken",
            )
        if name in self._loading:
            raise Problem(409, f"{name!r} is being loaded.", param="lora_name")
        if name not in self._models and len(self._models) + len(self._loading) > self._most:
            raise Problem(
                400, f"{self._most} adapters are loaded, which is --max-adapters. Unload one.", code="too_many_adapters"
            )
        folder = self._folder(path)
        self._loading.add(name)
        try:  # to its end, even if the client leaves: what is loaded has a name
            await asyncio.shield(asyncio.ensure_future(self._put(name, folder)))
        except LowregretError as error:
            raise Problem(400, _public(error, folder), param="lora_path") from None

    async def load_own(self, name: str, folder: Path) -> None:
        """Load an adapter of the command line, from wherever it is."""
        if not _NAME.fullmatch(name) or name in self._models:
            raise SpecError(
                f"--adapter {name}={folder}: give each a name of its own, of letters, digits and . _ : -, that is not "
                f"{self.base}."
            )
        await self._put(name, folder)

    async def _put(self, name: str, folder: Path) -> None:
        self._versions += 1
        policy = f"{name}@{self._versions}"
        engine = self._worker.sampler.engine

        def load() -> None:
            try:
                load_adapter(engine, policy, folder)
            except BaseException:
                if policy in engine.policies:
                    engine.remove_policy(policy)
                raise

        try:
            await self._worker.change(load)
        finally:
            self._loading.discard(name)
        self._drop(name)
        self._models[name] = Served(name, policy)

    async def unload(self, name: str) -> None:
        """Take an adapter off; requests that it is answering end first. Problem 404 when there is none."""
        if name == self.base or name not in self._models:
            raise Problem(404, f"No adapter {name[:100]!r} is loaded.", param="lora_name", code="model_not_found")
        self._drop(name)

    def _drop(self, name: str) -> None:
        former = self._models.pop(name, None)
        if former is not None:
            former.gone = True
            if not former.users:
                self._retire(former)

    def _retire(self, served: Served) -> None:
        sampler = self._worker.sampler

        def remove() -> None:
            sampler.engine.remove_policy(served.policy)
            sampler.forget(served.policy)

        self._worker.retire(served.policy, remove)

    def _folder(self, path: str) -> Path:
        if self._root is None:
            raise Problem(
                403, "This server loads no adapters on request: start it with --adapter-root FOLDER.", param="lora_path"
            )
        try:
            folder = (self._root / path).resolve()
            inside = folder.is_relative_to(self._root) and folder.is_dir()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links
            inside = False
        if not inside:
            raise Problem(400, "lora_path: no such folder below the server's --adapter-root.", param="lora_path")
        return folder


def _public(error: LowregretError, folder: Path) -> str:
    """What an error says, without a place on this machine."""
    said: str = without_paths(str(error), [str(folder)])
    return said.replace(str(folder), last_part(str(folder)))
