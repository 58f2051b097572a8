"""Sequences for Tinker's clients: drawn beside everybody else's, by weights that were written for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from lowregret.engine.sampling.draw import Likely, SamplingParams
from lowregret.errors import LowregretError
from lowregret.export.peft import load_adapter
from lowregret.foreign_text import without_paths
from lowregret.runs.atomic import remove_folder
from lowregret.serve.problems import Problem
from lowregret.serve.prompts import Prompts
from lowregret.serve.requests import COLD
from lowregret.serve.tinker.forms import SampleForm
from lowregret.serve.tinker.ledger import CHECKPOINTS, Answer, Ledger, failure
from lowregret.serve.tinker.passing import NOTHING
from lowregret.serve.tinker.reading import tensor
from lowregret.serve.tinker.tensors import TARGETS, Array
from lowregret.serve.tinker.trainer import Trainer
from lowregret.serve.tinker.work import Score
from lowregret.serve.worker import Job, Worker

BASE = "base"


@dataclass(eq=False)
class _Drawer:
    """A policy on the engine that sequences are drawn by."""

    policy: str
    users: int = 0
    ready: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: bool = False


@final
class Samplers:
    """Samplers and what they draw; in the event loop's thread."""

    def __init__(self, worker: Worker, trainer: Trainer, ledger: Ledger, prompts: Prompts, most: int) -> None:
        """`most` adapters are on the engine at once, if no more are being drawn by."""
        self._worker, self._trainer, self._ledger, self._prompts, self._most = worker, trainer, ledger, prompts, most
        self._drawers: dict[str, _Drawer] = {}
        """By folder, the one used longest ago first."""
        self._versions = 0

    def check(self, asked: SampleForm) -> None:
        """Problem for what cannot be drawn."""
        if self._ledger.sampler(asked.sampling_session_id) is None:
            raise Problem(404, f"There is no sampling session {asked.sampling_session_id}.")
        prompt = asked.prompt.tokens
        self._prompts.room(prompt, asked.sampling_params.max_tokens, None)
        for stop in asked.sampling_params.stops:
            if isinstance(stop, int) and not 0 <= stop < self._prompts.vocabulary:
                raise Problem(400, f"stop: no token of 0 to {self._prompts.vocabulary - 1}.")
        if max(asked.topk_prompt_logprobs, asked.topk_sample_logprobs) > self._prompts.vocabulary:
            raise Problem(400, f"topk: this model has {self._prompts.vocabulary} tokens.")
        last = asked.prompt_logprobs_last_n
        if last is not None and (last >= len(prompt) or not (asked.prompt_logprobs or asked.topk_prompt_logprobs)):
            raise Problem(400, "prompt_logprobs_last_n: 1 to the prompt's tokens less one, with prompt_logprobs.")
        targets = None if asked.target_prompt_logprobs is None else tensor(asked.target_prompt_logprobs)
        if targets is not None:
            fits = targets.ndim == 2 and targets.shape[0] == len(prompt) - 1 and targets.dtype == np.int64
            fits = fits and 0 < targets.shape[1] <= TARGETS
            if not fits or (targets.size and not -1 <= targets.min() <= targets.max() < self._prompts.vocabulary):
                raise Problem(
                    400,
                    f"target_prompt_logprobs: int64 tokens [prompt's tokens less one, K], or -1; K up to {TARGETS}.",
                )

    async def draw(self, asked: SampleForm, seed: int) -> Answer:
        """What a request that was checked comes to."""
        sampler = self._ledger.sampler(asked.sampling_session_id)
        if sampler is None:
            return failure("The sampling session has gone.", "user")
        self._ledger.use_sampler(asked.sampling_session_id)
        try:
            async with self._using(sampler["folder"]) as policy:
                return await self._draw(asked, seed, policy)
        except LowregretError as error:
            return failure(without_paths(str(error), [str(self._ledger.folder)]), "user")

    async def remove_idle(self, before: float) -> None:
        """Remove what was written to draw by, under no name, and was last drawn by before this moment."""
        for sampler, folder in self._ledger.idle_samplers(before):
            drawer = self._drawers.get(folder)
            if (drawer is not None and drawer.users) or not self._ledger.remove_sampler(sampler, before):
                continue
            if drawer is not None and drawer.loaded:
                self._retire(self._drawers.pop(folder).policy)
            await asyncio.to_thread(remove_folder, self._ledger.folder / CHECKPOINTS / folder)

    async def _draw(self, asked: SampleForm, seed: int, policy: str) -> Answer:
        prompt = asked.prompt.tokens
        params = self._params(asked, seed)
        job = Job(policy, [prompt], params, asked.num_samples, asyncio.get_running_loop())
        sequences = [_Sequence() for _ in range(asked.num_samples)]
        try:
            self._worker.submit(job)
            told = await self._told(asked, policy)
            left = len(sequences)
            while left:
                news = await job.next()
                sequences[news.choice].tokens += news.tokens
                sequences[news.choice].likely += news.likely
                if news.end in ("memory", "failed"):
                    said = "too little memory" if news.end == "memory" else "the server's log says how"
                    return failure(f"Drawing failed: {said}.", "server")
                if news.end is not None:
                    sequences[news.choice].end, left = str(news.end), left - 1
        finally:
            job.cancelled = True
        arrays = {f"prompt/{name}": value for name, value in told.items()}
        ends = []
        for number, sequence in enumerate(sequences):
            ends.append(sequence.end)
            arrays |= {f"{number}/{name}": value for name, value in sequence.arrays(asked.topk_sample_logprobs).items()}
        return Answer({"ends": ends}, arrays)

    async def _told(self, asked: SampleForm, policy: str) -> dict[str, Array]:
        """What is said of the prompt."""
        targets = None if asked.target_prompt_logprobs is None else tensor(asked.target_prompt_logprobs)
        if not asked.prompt_logprobs and not asked.topk_prompt_logprobs and targets is None:
            return {}
        score = Score(policy, asked.prompt.tokens, asked.topk_prompt_logprobs, targets)
        found: dict[str, Any] = await asyncio.wrap_future(self._trainer.score(score))
        if not asked.prompt_logprobs:
            del found["logprobs"]
        if asked.prompt_logprobs_last_n is not None:
            unasked = len(score.prompt) - asked.prompt_logprobs_last_n
            for name, nothing in (("logprobs", np.nan), ("top_ids", 0), ("top_logprobs", NOTHING)):
                if name in found:
                    found[name][:unasked] = nothing
        return found

    def _params(self, asked: SampleForm, seed: int) -> SamplingParams:
        given, prompts = asked.sampling_params, self._prompts
        ends: tuple[tuple[int, ...], tuple[str, ...]]
        if given.stop is None:
            ends = (tuple(prompts.end_ids), tuple(prompts.end_texts))
        else:
            ends = (
                tuple(stop for stop in given.stops if isinstance(stop, int)),
                tuple(stop for stop in given.stops if isinstance(stop, str)),
            )
        return SamplingParams(
            max_tokens=prompts.room(asked.prompt.tokens, given.max_tokens, None),
            temperature=0.0 if given.temperature < COLD else given.temperature,
            top_p=given.top_p,
            top_k=max(given.top_k, 0),
            top_logprobs=asked.topk_sample_logprobs,
            stop_ids=ends[0],
            stop_texts=ends[1],
            seed=seed,
        )

    @asynccontextmanager
    async def _using(self, folder: str | None) -> AsyncIterator[str]:
        """The policy of a folder, on the engine meanwhile; the base without one."""
        if folder is None:
            yield BASE
            return
        drawer = self._drawers.pop(folder, None)
        if drawer is None:  # a name of its own: one that was retired may be on the engine still
            self._versions += 1
            drawer = _Drawer(f"sampler:{folder}@{self._versions}")
        self._drawers[folder] = drawer
        drawer.users += 1
        try:
            async with drawer.ready:
                if not drawer.loaded:
                    place = self._ledger.folder / CHECKPOINTS / folder
                    await self._worker.change(lambda: load_adapter(self._worker.sampler.engine, drawer.policy, place))
                    drawer.loaded = True
            yield drawer.policy
        finally:
            drawer.users -= 1
            if not drawer.loaded and not drawer.users:
                self._drawers.pop(folder, None)
            self._make_room()

    def _make_room(self) -> None:
        idle = [folder for folder, drawer in self._drawers.items() if drawer.loaded and not drawer.users]
        for folder in idle[: max(0, len(self._drawers) - self._most)]:
            self._retire(self._drawers.pop(folder).policy)

    def _retire(self, policy: str) -> None:
        sampler = self._worker.sampler

        def remove() -> None:
            sampler.engine.remove_policy(policy)
            sampler.forget(policy)

        self._worker.retire(policy, remove)


@dataclass
class _Sequence:
    """What was drawn for one."""

    tokens: list[int] = field(default_factory=list)
    likely: list[Likely] = field(default_factory=list)
    end: str = ""

    def arrays(self, top: int) -> dict[str, Array]:
        """Its tokens and their log-probabilities: the model's own, at temperature 1 and of all tokens."""
        found: dict[str, Array] = {
            "tokens": np.array(self.tokens, np.int32),
            "logprobs": np.array([each.logprob for each in self.likely], np.float32),
        }
        if top:
            pairs: Sequence[Sequence[tuple[int, float]]] = [each.top for each in self.likely]
            found["top_ids"] = np.array([[token for token, _ in own] for own in pairs], np.int32).reshape(-1, top)
            found["top_logprobs"] = np.array([[value for _, value in own] for own in pairs], np.float32).reshape(
                -1, top
            )
        return found
