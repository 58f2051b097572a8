"""A server from its spec: the engine, its thread, the application, and the time in which it stops."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lowregret.addresses import BACKLOG, address_of, listen, require_key
from lowregret.data.chat.template import choose_template
from lowregret.engine.device import choose_device, choose_dtype
from lowregret.engine.engine import Engine
from lowregret.engine.sampling.live import LiveSampler
from lowregret.errors import SpecError
from lowregret.foreign_text import last_part, redacted
from lowregret.models.files import base_files
from lowregret.models.load import load_base, resolve
from lowregret.models.stops import stops
from lowregret.runs.lock import lock_run
from lowregret.runs.manifest import digests
from lowregret.serve.adapters import Adapters
from lowregret.serve.guard import Guard, Told
from lowregret.serve.metrics import Metrics
from lowregret.serve.openai import OpenAI
from lowregret.serve.problems import TINKER, Problem, failed, json_response
from lowregret.serve.prompts import Prompts
from lowregret.serve.protocol import timed
from lowregret.serve.tinker.tinker import Tinker
from lowregret.serve.worker import Worker, apart
from lowregret.spec.serve import ServeSpec
from lowregret.strict_json import to_json

KEEP_ALIVE_SECONDS = 5

Say = Callable[[str], None]


@final
class Server:
    """One base and the adapters on it, served over HTTP."""

    def __init__(
        self,
        model: str,
        spec: ServeSpec,
        *,
        adapters: Mapping[str, Path],
        root: Path | None = None,
        tinker: Path | None = None,
        name: str | None = None,
        key: str | None = None,
        log: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Load the base and listen, but answer nobody yet: `run` does.

        `tinker`: where what Tinker's clients train is kept; None answers none. `name`: what the base is called.
        SpecError for an address that others reach without a `key`, or one that is taken.
        """
        self._spec, self._key, self._given, self._folder = spec, key, dict(adapters), tinker
        self._model = model
        self._log = _line if log is None else log
        require_key(spec.host, key)
        if root is not None and not root.is_dir():
            raise SpecError(f"--adapter-root {root}: is no folder.")
        self.socket = listen(spec.host, spec.port)
        sampler, self.remarks = apart(lambda: _loaded(model, spec))
        """What to know of the base, and of the key."""
        if tinker is not None and key is not None and not key.startswith("tml-"):
            self.remarks.append("Tinker's SDK takes no key that does not begin with tml-: its clients will not get in")
        self.name = name or (last_part(model) if Path(model).exists() else model)
        """By which requests name the base."""
        self.worker = Worker(sampler, spec.max_rows, self._failed)
        self.adapters = Adapters(self.worker, self.name, root, spec.max_adapters)
        self._prompts = Prompts(sampler.engine)
        self.metrics = Metrics(self.worker, lambda: len(self.adapters.models) - 1)
        self._tinker: Tinker | None = None

    @property
    def url(self) -> str:
        """Where OpenAI's clients find it."""
        return f"{address_of(self.socket)}/v1"

    def _failed(self, what: str, trace: str) -> None:
        self._log({"event": "failed", "error": what, "trace": trace})

    def application(self) -> ASGIApp:
        """What answers requests."""
        openai = OpenAI(self.worker, self.adapters, self._prompts, self._spec)
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            *openai.routes(),
            *([] if self._tinker is None else self._tinker.routes()),
        ]
        app = Starlette(routes=routes, lifespan=self._life, exception_handlers=_HANDLERS)
        app.router.redirect_slashes = False
        local = {"localhost", self._spec.host, "127.0.0.1", "::1"}
        return Guard(
            app,
            key=self._key,
            hosts=local if self._key is None else (),
            max_body=self._most,
            body_seconds=self._spec.body_seconds,
            answer_seconds=self._spec.answer_seconds,
            log=self._log,
            ended=self._ended,
        )

    def _most(self, path: str) -> int:
        """Bytes of a request at this path."""
        return self._spec.max_training_body if path.startswith(TINKER) else self._spec.max_body

    def _ended(self, told: Told, status: int) -> None:
        self.metrics.requests.labels(told.route, str(status)).inc()
        self.metrics.seconds.labels(told.route).observe(time.monotonic() - told.began)
        if told.first is not None:
            self.metrics.first.observe(told.first)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        """Around all requests."""
        if self._tinker is not None:
            await self._tinker.begin()
        try:
            yield
        finally:
            if self._tinker is not None:
                await self._tinker.end()
            await asyncio.to_thread(self.worker.stop)

    async def _health(self, request: Request) -> Response:
        request.scope["told"].route = "health"
        return json_response({}, 200 if self.worker.alive else 503)

    async def _metrics(self, request: Request) -> Response:
        request.scope["told"].route = "metrics"
        text, kind = self.metrics.text()
        return Response(text, headers={"content-type": kind})

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer requests until SIGINT or SIGTERM; `ready` is called before the first one is.

        The adapters that were given are loaded first: whatever is wrong with one ends the server. FolderLockedError
        where another server has the folder of Tinker's clients, RecordsError where its models are another base's.
        """
        with nullcontext() if self._folder is None else lock_run(self._folder):
            if self._folder is not None:
                self._tinker = Tinker(self.worker, self._prompts, self.name, self._folder, self._spec)
            try:
                if self._tinker is not None:
                    self._tinker.ledger.bind(digests(base_files(self._model)))
                self._serve(ready)
            finally:
                if self._tinker is not None:
                    self._tinker.ledger.close()

    def _serve(self, ready: Callable[[], None]) -> None:
        self.worker.start()
        try:
            for name, folder in self._given.items():
                asyncio.run(self.adapters.load_own(name, folder))
        except BaseException:
            self.worker.stop()
            raise
        _allow_files(self._spec.max_connections)
        config = uvicorn.Config(
            self.application(),
            http=timed(self._spec.header_seconds),
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=self._spec.max_connections,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=self._spec.stop_seconds,
        )
        self.uvicorn = uvicorn.Server(config)
        ready()
        try:
            self.uvicorn.run(sockets=[self.socket])
        finally:
            self.socket.close()
            if self.worker.alive:
                self.worker.stop()


async def _no_route(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the form of every other problem."""
    assert isinstance(error, HTTPException)
    said = {404: "There is no such path here.", 405: "This path takes another method."}
    return Problem(error.status_code, said.get(error.status_code, "This request is not answered.")).response(
        request.url.path
    )


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(request.url.path)


async def _failed(request: Request, error: Exception) -> Response:
    """Starlette raises the error again, and the guard logs it."""
    return failed().response(request.url.path)


_HANDLERS: Mapping[Any, Any] = {HTTPException: _no_route, Problem: _problem, Exception: _failed}


def _loaded(model: str, spec: ServeSpec) -> tuple[LiveSampler, list[str]]:
    """The base, ready to be drawn from, and what to know of it. SpecError for a chat template that cannot be used."""
    base = load_base(resolve(model), choose_dtype(spec.precision, choose_device(spec.device)))
    choose_template(base.tokenizer, spec.chat_template)
    engine = Engine(base, device=spec.device, precision=spec.precision)
    remarks = [*stops(base).lines(), *engine.sampling_path.lines()]
    return LiveSampler(engine, spec.prefix_memory), remarks


def _line(about: dict[str, Any]) -> None:
    """A line of the log, on standard error."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with suppress(OSError):
        print(redacted(to_json({"time": at, **about})), file=sys.stderr, flush=True)


def _allow_files(connections: int) -> None:
    """Let the process have as many connections open, as far as it may."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
