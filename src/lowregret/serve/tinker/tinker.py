"""Tinker's endpoints, at /api/v1: a request is checked, kept in the ledger, and only then said to be taken."""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lowregret.errors import LowregretError
from lowregret.models.targets import find_targets
from lowregret.serve.problems import Problem, json_response
from lowregret.serve.prompts import Prompts
from lowregret.serve.requests import Asked, parse
from lowregret.serve.tinker.bodies import Endpoint, asked_of, body_of, content_type, named, place_in
from lowregret.serve.tinker.catalogue import Catalogue, checkpoint_path
from lowregret.serve.tinker.drawing import WAITING, Drawing
from lowregret.serve.tinker.forms import (
    ClientConfig,
    CreateModel,
    CreateSession,
    Heartbeat,
    LoadWeights,
    OfModel,
    OptimStep,
    Retrieve,
    SaveForSampler,
    SaveWeights,
)
from lowregret.serve.tinker.futures import PROTO_TYPE, Futures, told
from lowregret.serve.tinker.ledger import Answer, Kept, Kind, Ledger, failure
from lowregret.serve.tinker.reading import JSON, PROTO, passing, read
from lowregret.serve.tinker.samplers import Samplers
from lowregret.serve.tinker.tensors import Passing, check
from lowregret.serve.tinker.trainer import Trainer
from lowregret.serve.tinker.wire import place_of
from lowregret.serve.tinker.work import Task
from lowregret.serve.worker import Worker
from lowregret.spec import LoRA
from lowregret.spec.serve import ServeSpec
from lowregret.strict_json import to_json

A = TypeVar("A", bound=Asked)
ANSWER_SECONDS = 6 * 3600.0
"""For which answers are kept, and what samplers without a name draw by after they were last asked."""
TIDY_SECONDS = 600.0
PREFIX = "/api/v1"


@final
class Tinker:
    """The endpoints of one server."""

    def __init__(self, worker: Worker, prompts: Prompts, name: str, folder: Path, spec: ServeSpec) -> None:
        """`name`: that of the base; `folder` is locked for as long as the server runs."""
        self._worker, self._prompts, self._name, self._spec = worker, prompts, name, spec
        self._engine = worker.sampler.engine
        self.ledger = Ledger(folder)
        self._futures = Futures(self.ledger)
        self.trainer = Trainer(
            self._engine,
            self.ledger,
            pass_tokens=spec.pass_tokens,
            most_models=spec.max_models,
            change=worker.sampler.change,
            tell=self._futures.tell,
            wake=worker.wake,
            log=worker.log,
        )
        worker.attach(self.trainer.turn, self.trainer.stop)
        self._samplers = samplers = Samplers(worker, self.trainer, self.ledger, prompts, spec.max_adapters)
        self._drawing = Drawing(samplers, self.ledger, self._futures, name, worker.log)
        self._catalogue = Catalogue(self.ledger, name, prompts.positions)

    def routes(self) -> list[Route]:
        """What is answered."""
        posts: dict[str, Endpoint] = {
            "client/config": self.client_config,
            "create_session": self.create_session,
            "session_heartbeat": self.heartbeat,
            "telemetry": self.telemetry,
            "create_model": self.create_model,
            "get_info": self.get_info,
            "unload_model": self.unload,
            "forward_backward": self.forward_backward,
            "forward": self.forward,
            "optim_step": self.optim_step,
            "save_weights": self.save,
            "save_weights_for_sampler": self.export,
            "load_weights": self.load,
            "create_sampling_session": self._drawing.create_sampler,
            "asample": self._drawing.sample,
            "retrieve_future": self.retrieve,
        }
        own = [Route(f"{PREFIX}/{path}", named(path, endpoint), methods=["POST"]) for path, endpoint in posts.items()]
        return [*own, *self._catalogue.routes(PREFIX)]

    # the server's life

    async def begin(self) -> None:
        """Take up what a server before this one had taken and not answered."""
        self._futures.begin()
        refused = failure("The request was refused.", "user")
        self.ledger.keep({kept.id: refused for kept in self.ledger.waiting("void")})
        for kept in self.ledger.waiting("create", "pass", "step", "save", "load", "export"):
            self._put(kept)
        self._drawing.begin()
        self._tidying = asyncio.ensure_future(self._tidy())

    async def end(self) -> None:
        """Draw no more; what waits is done by the next server."""
        await self._drawing.end()
        self._tidying.cancel()
        with suppress(asyncio.CancelledError):
            await self._tidying

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                await self.tidy(time.time())
            except Exception as error:
                self._worker.log(f"{type(error).__name__}: {error}", "")

    async def tidy(self, now: float) -> None:
        """Let go of what is kept for a time alone: answers, checkpoints with an end, samplers that nobody draws by."""
        await asyncio.to_thread(self.ledger.forget, now - ANSWER_SECONDS)
        for row in await asyncio.to_thread(self.ledger.checkpoints):
            if (row["about"]["expires"] or math.inf) < now:
                self._catalogue.remove(row)
        await self._samplers.remove_idle(now - ANSWER_SECONDS)

    # sessions

    async def client_config(self, request: Request) -> Response:
        """What the SDK may do: nothing that this server does not answer."""
        await asked_of(ClientConfig, request)
        return json_response(
            {
                "pjwt_auth_enabled": False,
                "credential_default_source": "api_key",
                "parallel_fwdbwd_chunks": True,
                "proto_compress_fwdbwd": False,
                "fwdbwd_max_chunk_bytes_count": min(5_000_000, self._spec.max_training_body // 2),
                "sample_use_retrieve_futures": False,
                "custom_loss_server_side": False,
                "sample_join_sampling_session": False,
                "sample_max_concurrent_requests": WAITING // 2,
            }
        )

    async def create_session(self, request: Request) -> Response:
        """A client begins."""
        asked = await asked_of(CreateSession, request)
        session = uuid.uuid4().hex
        about = {"user_metadata": asked.user_metadata or {}, "tags": asked.tags, "sdk": asked.sdk_version}
        self.ledger.add_session(session, about | {"display_name": asked.display_name})
        return json_response({"type": "create_session", "session_id": session})

    async def heartbeat(self, request: Request) -> Response:
        """It is there still."""
        asked = await asked_of(Heartbeat, request)
        if not self.ledger.see(asked.session_id):
            raise Problem(404, f"There is no session {asked.session_id}.")
        return json_response({"type": "session_heartbeat"})

    async def telemetry(self, request: Request) -> Response:
        """What SDKs tell of themselves; nothing is kept."""
        await body_of(request)
        return json_response({"status": "accepted"})

    # models

    async def create_model(self, request: Request) -> Response:
        """A new policy on the base."""
        asked = await asked_of(CreateModel, request)
        model = self._new_model(asked.session_id, asked.model_seq_id, asked.base_model)
        config = asked.lora_config
        seed = random.SystemRandom().randrange(2**31) if config.seed is None else config.seed
        method = self._method(config.rank, config.targets)
        about = {"user_metadata": asked.user_metadata, "config": config.model_dump(mode="json")}
        self.ledger.add_model(model, asked.session_id, method.model_dump_json(), seed, about)
        return self._take(model, 0, "create", b"", JSON)

    def _new_model(self, session: str, number: int, base: str | None) -> str:
        if self.ledger.session(session) is None:
            raise Problem(404, f"There is no session {session}.")
        if base is not None and base != self._name:
            raise Problem(400, f"base_model: {base[:100]!r} is not served here. There is {self._name}.")
        return f"{session}:train:{number}"

    def _method(self, rank: int, targets: tuple[str, ...]) -> LoRA:
        try:
            method = LoRA(rank=rank, targets=targets, quantisation=self._engine.base.quantisation)
            find_targets(self._engine.model, self._engine.matrices, method.targets)
        except (ValidationError, LowregretError) as error:
            raise Problem(400, f"lora_config: {str(error)[:300]}") from None
        return method

    async def get_info(self, request: Request) -> Response:
        """What a model is."""
        asked = await asked_of(OfModel, request)
        row = self._model(asked.model_id)
        rank = LoRA.model_validate_json(row["method"]).rank
        about = {"model_name": self._name, "tokenizer_id": self._name, "arch": None}
        return json_response(
            {
                "type": "get_info",
                "model_id": asked.model_id,
                "model_data": about,
                "is_lora": True,
                "lora_rank": rank,
                "model_name": self._name,
            }
        )

    def _model(self, model: str) -> dict[str, Any]:
        row = self.ledger.model(model)
        if row is None or row["closed"]:
            raise Problem(404, f"There is no model {model}.")
        return row

    async def unload(self, request: Request) -> Response:
        """Train a model no more; its checkpoints stay."""
        asked = await asked_of(OfModel, request)
        model, name = asked.model_id, f"{asked.model_id}:unload"
        row = self.ledger.model(model)
        if row is None:
            raise Problem(404, f"There is no model {model}.")
        if not row["closed"]:  # else its client did not hear of it
            await self._worker.change(lambda: self.trainer.operations.close(model))
        self.ledger.accept(Kept(name, name, 0, "void", b"", JSON, time.time()))
        self.ledger.keep({name: Answer({"type": "unload_model", "model_id": model}, {})})
        return json_response({"request_id": name, "model_id": model})

    # what is done in order

    async def forward_backward(self, request: Request) -> Response:
        """Pass data forward, and backward."""
        return await self._pass(request, forward_only=False)

    async def forward(self, request: Request) -> Response:
        """Pass data forward alone, as SDKs up to 0.24 ask for it."""
        return await self._pass(request, forward_only=True)

    async def _pass(self, request: Request, *, forward_only: bool) -> Response:
        form = PROTO if content_type(request) == PROTO_TYPE else JSON
        body = await body_of(request, PROTO_TYPE)
        try:
            found = await asyncio.to_thread(passing, body, form, forward_only=forward_only)
        except Problem as problem:
            raise self._in_place(place_of(body) if form == PROTO else place_in(body), problem) from None
        self._number(found.model_id, found.seq_id)
        try:
            await asyncio.to_thread(check, found, self._prompts.vocabulary, self._prompts.positions)
        except Problem as problem:
            raise self._refused(found.model_id, self._number(found.model_id, found.seq_id), problem) from None
        kept = f"{form}-forward" if found.forward_only else form
        seq = self._number(found.model_id, found.seq_id)  # now: another without a number may have come meanwhile
        return self._take(found.model_id, seq, "pass", body, kept, found)

    async def optim_step(self, request: Request) -> Response:
        """One step of the optimizer."""
        body = await body_of(request)
        asked = await self._ordered(OptimStep, body)
        seq = self._number(asked.model_id, asked.seq_id)
        return self._take(asked.model_id, seq, "step", body, JSON)

    async def save(self, request: Request) -> Response:
        """Keep a model's weights and its optimizer's state."""
        asked = await self._ordered(SaveWeights, await body_of(request))
        seq = self._number(asked.model_id, asked.seq_id)
        path = checkpoint_path(asked.model_id, "weights", asked.path or f"{seq:06d}")
        if not asked.overwrite and self.ledger.checkpoint(path) and not self.ledger.id_of(asked.model_id, seq):
            said = Problem(400, f"path: {path} is there already. Give another name, or overwrite.")
            raise self._refused(asked.model_id, seq, said)
        about = {"user_metadata": asked.user_metadata, "expires": _end(asked.ttl_seconds)}
        return self._work(asked.model_id, seq, "save", path=path, overwrite=asked.overwrite, about=about)

    async def export(self, request: Request) -> Response:
        """Keep a model's weights to draw by."""
        asked = await self._ordered(SaveForSampler, await body_of(request))
        model, row = asked.model_id, self._model(asked.model_id)
        seq = self._number(model, asked.seq_id)
        path = None if asked.path is None else checkpoint_path(model, "sampler_weights", asked.path)
        number = asked.sampling_session_seq_id
        sampler = None if number is None else f"{row['session']}:sample:{number}"
        about = {"user_metadata": asked.user_metadata, "expires": _end(asked.ttl_seconds)}
        return self._work(model, seq, "export", path=path, sampler=sampler, session=row["session"], about=about)

    async def load(self, request: Request) -> Response:
        """Put a checkpoint into a model, or make a model of it."""
        asked = await self._ordered(LoadWeights, await body_of(request))
        fresh = asked.model_id is None
        known = self.ledger.checkpoint(asked.path)
        problem = None
        if known is None or known["kind"] != "weights":
            problem = Problem(404, f"path: {asked.path[:200]} is no checkpoint of weights here.")
        if not fresh:
            assert asked.model_id is not None
            model, seq = asked.model_id, self._number(asked.model_id, asked.seq_id)
            if problem is not None:
                raise self._refused(model, seq, problem)
        else:
            assert asked.session_id is not None
            assert asked.model_seq_id is not None
            model, seq = self._new_model(asked.session_id, asked.model_seq_id, asked.base_model), 0
            if problem is not None or known is None:
                raise problem or Problem(404, "no checkpoint")
            source = self.ledger.model(known["model"])
            assert source is not None
            about = {"user_metadata": asked.user_metadata, "config": source["about"]["config"]}
            self.ledger.add_model(model, asked.session_id, source["method"], source["seed"], about)
        return self._work(model, seq, "load", path=asked.path, optimizer=asked.optimizer, fresh=fresh)

    async def _ordered(self, kind: type[A], body: bytes) -> A:
        """A body with a place in its model's order, which it keeps when it is refused."""
        try:
            return parse(kind, body)
        except Problem as problem:
            raise self._in_place(place_in(body), problem) from None

    def _in_place(self, place: tuple[str, int] | None, problem: Problem) -> Problem:
        """Refuse what names this place."""
        if place is not None and self.ledger.model(place[0]) is not None:
            return self._refused(*place, problem)
        return problem

    def _number(self, model: str, seq: int | None) -> int:
        """The request's place among its model's: behind all others where it does not say."""
        self._model(model)
        if seq is None:
            return (self.ledger.last(model) or 0) + 1
        if not 0 < seq < 2**62:
            raise Problem(400, "seq_id: counts from 1.")
        return seq

    def _refused(self, model: str, seq: int, problem: Problem) -> Problem:
        """Keep the place of a request that is refused, so that those behind it go on."""
        name = f"{model}:{seq}"
        if self.ledger.accept(Kept(name, model, seq, "void", b"", JSON, time.time())):
            self.ledger.keep({name: failure(problem.body["error"]["message"], "user")})
            self.trainer.skip(model, seq)
        return problem

    def _work(self, model: str, seq: int, kind: Kind, **work: Any) -> Response:
        return self._take(model, seq, kind, to_json(work).encode(), JSON)

    def _take(self, model: str, seq: int, kind: Kind, body: bytes, form: str, work: Passing | None = None) -> Response:
        """Keep a request, and say so; one that comes again is the same request."""
        if self.trainer.waits(model) >= WAITING and seq != self.trainer.following(model):
            raise Problem(429, "Too many requests of this model wait.", headers={"Retry-After": "1"})
        kept = Kept(f"{model}:{seq}", model, seq, kind, body, form, time.time())
        if self.ledger.accept(kept):
            self._put(kept, work)
        return json_response({"request_id": self.ledger.id_of(model, seq), "model_id": model})

    def _put(self, kept: Kept, work: Passing | None = None) -> None:
        """Have a request done that was taken; it fails where that can no longer be."""
        row = self.ledger.model(kept.owner)
        if row is None or row["closed"]:
            said = f"{kept.owner}: has been unloaded."
        elif self.trainer.put(Task(kept, work or read(kept))):
            return
        else:
            said = f"The request of seq_id {kept.seq} came when those behind it had been given up."
        self.ledger.keep({kept.id: failure(said, "user")})
        self._futures.tell([kept.id])

    # answers

    async def retrieve(self, request: Request) -> Response:
        """What a request has come to."""
        asked = await asked_of(Retrieve, request)
        name = asked.request_id
        found = await self._futures.answer(name)
        if found is None:
            raise Problem(404, "There is no such request.")
        if found == "gone":
            said = failure(f"The answer was kept for {ANSWER_SECONDS / 3600:g} hours.", "user")
            return json_response(dict(said.values))
        if isinstance(found, str):
            self._give_up(name.rpartition(":")[0])
            self._worker.wake()  # what a full disk has kept from being told is tried again
            waits = {"type": "try_again", "request_id": name, "queue_state": "active"}
            return json_response(waits, 408)
        return told(found, proto=PROTO_TYPE in request.headers.get("accept", ""))

    def _give_up(self, model: str) -> None:
        """Fail what waits for a request that has not come in the time that an answer has."""
        if self.trainer.stuck(model) <= self._spec.answer_seconds:
            return
        missing = self.trainer.following(model)
        given_up = [task.asked.id for task in self.trainer.give_up(model)]
        said = failure(f"The request of seq_id {missing} has not come, and this one is behind it.", "user")
        self.ledger.keep(dict.fromkeys(given_up, said))
        self._futures.tell(given_up)


def _end(seconds: int | None) -> float | None:
    """When a checkpoint goes that is kept for so long."""
    return None if seconds is None else time.time() + seconds
