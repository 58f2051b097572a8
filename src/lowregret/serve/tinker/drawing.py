"""Tinker's endpoints that draw: samplers, and sequences by them."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import final

from starlette.requests import Request
from starlette.responses import Response

from lowregret.serve.problems import Problem, json_response
from lowregret.serve.requests import parse
from lowregret.serve.tinker.bodies import asked_of, body_of
from lowregret.serve.tinker.forms import CreateSampler, SampleForm
from lowregret.serve.tinker.futures import Futures
from lowregret.serve.tinker.ledger import Answer, Kept, Ledger, failure
from lowregret.serve.tinker.samplers import Samplers

WAITING = 1024
"""Requests of a model, or of all samplers, that may wait."""
AGAIN_SECONDS = 5.0
"""After which an answer that could not be kept is kept again."""


@final
class Drawing:
    """What is drawn for clients; each request is a task until it has its answer."""

    def __init__(
        self, samplers: Samplers, ledger: Ledger, futures: Futures, name: str, log: Callable[[str, str], None]
    ) -> None:
        """`name`: that of the base."""
        self._samplers, self._ledger, self._futures, self._name, self._log = samplers, ledger, futures, name, log
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Take up what a server before this one had taken and not answered."""
        for kept in self._ledger.waiting("sample"):
            self._draw(kept)

    async def end(self) -> None:
        """Draw no more; what waits is drawn by the next server."""
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def create_sampler(self, request: Request) -> Response:
        """Something to draw by: the base, or what was kept of a model."""
        asked = await asked_of(CreateSampler, request)
        if self._ledger.session(asked.session_id) is None:
            raise Problem(404, f"There is no session {asked.session_id}.")
        if asked.base_model not in (None, self._name):
            raise Problem(400, f"base_model: {asked.base_model!r:.100} is not served here. There is {self._name}.")
        folder = None
        if asked.model_path is not None:
            known = self._ledger.checkpoint(asked.model_path)
            if known is None or known["kind"] != "sampler_weights":
                raise Problem(404, f"model_path: {asked.model_path[:200]} is no checkpoint of sampler weights here.")
            folder = known["file"]
        elif asked.base_model is None:
            raise Problem(400, "One of base_model and model_path is needed.")
        sampler = f"{asked.session_id}:sample:{asked.sampling_session_seq_id}"
        self._ledger.add_sampler(sampler, asked.session_id, folder, asked.model_path)
        return json_response({"type": "create_sampling_session", "sampling_session_id": sampler})

    async def sample(self, request: Request) -> Response:
        """Draw sequences."""
        body = await body_of(request)
        asked = parse(SampleForm, body)
        self._samplers.check(asked)
        owner, seq = asked.sampling_session_id, asked.seq_id
        if self._ledger.id_of(owner, seq) is None:
            if len(self._tasks) >= WAITING:
                raise Problem(429, "Too many requests wait to be drawn.", headers={"Retry-After": "1"})
            seed = asked.sampling_params.seed
            seed = random.SystemRandom().randrange(2**53) if seed is None else seed
            kept = Kept(f"{owner}:{seq}", owner, seq, "sample", body, str(seed), time.time())
            if self._ledger.accept(kept):
                self._draw(kept)
        name = self._ledger.id_of(owner, seq)
        return json_response(
            {"request_id": name, "sample_sequence_ids": [f"{name}-{number}" for number in range(asked.num_samples)]}
        )

    def _draw(self, kept: Kept) -> None:
        task = asyncio.ensure_future(self._drawn(kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drawn(self, kept: Kept) -> None:
        try:
            answer = await self._samplers.draw(parse(SampleForm, kept.body), int(kept.form))
        except Exception as error:
            self._log(f"{kept.id}: {type(error).__name__}: {error}", "")
            answer = failure("The server failed on this request; its log says how.", "server")
        while not self._kept(kept.id, answer):  # its client asks again meanwhile
            await asyncio.sleep(AGAIN_SECONDS)
        self._futures.tell([kept.id])

    def _kept(self, request: str, answer: Answer) -> bool:
        """Whether an answer is kept, which a full disk refuses for as long as it is full."""
        try:
            self._ledger.keep({request: answer})
        except sqlite3.Error as error:
            self._log(f"{request}: {type(error).__name__}: {error}", "")
            return False
        return True
