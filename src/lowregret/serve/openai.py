"""OpenAI's endpoints, and vLLM's for adapters: a request's way from its body to its answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lowregret.engine.sampling.rows import Constraint
from lowregret.serve.adapters import Adapters, Served
from lowregret.serve.answers import DONE, Choice, Form, event, usage
from lowregret.serve.guard import Told
from lowregret.serve.problems import Problem, busy, failed, json_response, late
from lowregret.serve.prompts import Prompts
from lowregret.serve.requests import ChatRequest, Drawing, LoadAdapter, TextRequest, UnloadAdapter, parse
from lowregret.serve.worker import Job, News, Worker
from lowregret.spec.serve import ServeSpec

Constrain = Callable[[], Constraint]

TEXT_TOKENS = 16
"""Of a completion of a text, when nothing is said: OpenAI's own."""


@final
class OpenAI:
    """The endpoints of one server."""

    def __init__(self, worker: Worker, adapters: Adapters, prompts: Prompts, spec: ServeSpec) -> None:
        self._worker, self._adapters, self._prompts, self._spec = worker, adapters, prompts, spec
        self._forms = prompts.forms()
        self._asked = 0
        """Completions that are drawn or wait."""
        self._reading = asyncio.Semaphore(4)
        """Requests whose prompts are being made: it is the tokenizer's and the template's work, in threads."""

    def routes(self) -> list[Route]:
        """What is answered."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """The base and its adapters."""
        _told(request, "models")
        return json_response({"object": "list", "data": [self._about(each) for each in self._adapters.models.values()]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        _told(request, "model")
        with self._adapters.using(request.path_params["name"]) as served:
            return json_response(self._about(served))

    def _about(self, served: Served) -> dict[str, Any]:
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "lowregret",
            "root": self._adapters.base,
            "parent": None if served.name == self._adapters.base else self._adapters.base,
            "max_model_len": self._prompts.positions,
        }

    async def load(self, request: Request) -> Response:
        """Load an adapter from below the server's --adapter-root."""
        _told(request, "load_lora_adapter")
        asked = parse(LoadAdapter, await _body(request))
        await self._adapters.load(asked.lora_name, asked.lora_path, replace=asked.load_inplace)
        return Response(f"Success: LoRA adapter '{asked.lora_name}' added successfully.", media_type="text/plain")

    async def unload(self, request: Request) -> Response:
        """Take one off."""
        _told(request, "unload_lora_adapter")
        asked = parse(UnloadAdapter, await _body(request))
        await self._adapters.unload(asked.lora_name)
        return Response(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.", media_type="text/plain")

    async def chat(self, request: Request) -> Response:
        """The next turn of a chat."""
        told = _told(request, "chat")
        asked = parse(ChatRequest, await _body(request))
        tools = None if asked.tool_choice == "none" else asked.tools
        async with self._reading:
            prompt = await run_in_threadpool(self._prompts.of_chat, asked.messages, tools)
        wanted = asked.max_completion_tokens or asked.max_tokens
        room = self._prompts.room(prompt, wanted, None)
        schema = None if asked.response_format is None else asked.response_format.schema_asked
        async with self._reading:
            constrain = None if schema is None else await run_in_threadpool(self._forms.of, schema)
        return await self._answer(
            request, told, "chat", asked, [prompt], room, asked.top, calls=bool(tools), constrain=constrain
        )

    async def completions(self, request: Request) -> Response:
        """How texts go on."""
        told = _told(request, "completions")
        asked = parse(TextRequest, await _body(request))
        given = asked.prompt
        several: Sequence[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        if not several or len(several) * asked.choices > self._spec.max_choices:
            raise Problem(
                400, f"prompt: 1 to {self._spec.max_choices} completions may be asked for at once.", param="prompt"
            )
        async with self._reading:
            prompts = [
                await run_in_threadpool(self._prompts.of_text, each) if isinstance(each, str) else tuple(each)
                for each in several
            ]
        room = min(self._prompts.room(prompt, asked.max_tokens, TEXT_TOKENS) for prompt in prompts)
        before = (
            [each if isinstance(each, str) else self._prompts.decode(each) for each in several] if asked.echo else None
        )
        return await self._answer(request, told, "text", asked, prompts, room, asked.top, before=before)

    async def _answer(
        self,
        request: Request,
        told: Told,
        kind: str,
        asked: Drawing,
        prompts: Sequence[tuple[int, ...]],
        room: int,
        top: int | None,
        *,
        before: Sequence[str] | None = None,
        calls: bool = False,
        constrain: Constrain | None = None,
    ) -> Response:
        size = len(prompts) * asked.choices
        if size > self._spec.max_choices:
            raise Problem(400, f"n: up to {self._spec.max_choices} completions may be asked for at once.", param="n")
        if self._asked + size > self._spec.max_rows + self._spec.max_waiting:
            raise busy()
        seed = random.SystemRandom().randrange(2**53) if asked.seed is None else asked.seed % 2**63
        ends = (self._prompts.end_ids, self._prompts.end_texts)
        params = asked.params(room, seed, top, *ends, self._prompts.vocabulary)
        choices = [Choice(params, self._prompts, calls) for _ in range(size)]
        form = Form(kind, told.number, int(time.time()), asked.model, self._prompts)
        preceding = [text for text in before or [""] * len(prompts) for _ in range(asked.choices)]
        drawing = self._draw(asked.model, prompts, params, choices, told, constrain)
        await anext(drawing)  # takes its places; what is wrong with the model's name is said before a stream begins
        if not asked.stream:
            async with aclosing(drawing):  # type: ignore[type-var]
                await _unless_gone(request, _all(drawing))
            return json_response(form.whole(choices, preceding, usage(prompts, _drawn(choices))))
        events = self._events(form, choices, preceding, prompts, drawing, usage_at_end=asked.usage_at_end)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    async def _draw(
        self,
        model: str,
        prompts: Sequence[tuple[int, ...]],
        params: Any,
        choices: Sequence[Choice],
        told: Told,
        constrain: Constrain | None,
    ) -> AsyncIterator[tuple[int, str, News] | None]:
        """(choice, its new text, what was drawn) as it comes, after a None. Problem where it cannot go on."""
        size = len(choices)
        with self._adapters.using(model) as served:
            job = Job(served.policy, prompts, params, size // len(prompts), asyncio.get_running_loop(), constrain)
            told.about |= {"model": served.name, "choices": size, "prompt_tokens": sum(map(len, prompts))}
            self._asked += size
            self._worker.submit(job)
            left = size
            try:
                yield None
                while left:
                    news = await self._next(job, told)
                    left -= news.end is not None
                    yield news.choice, choices[news.choice].take(news), news
            finally:
                job.cancelled = True
                self._asked -= size
                told.about["completion_tokens"] = _drawn(choices)

    async def _next(self, job: Job, told: Told) -> News:
        """Problem where there is none in time, or the engine has let go of the job."""
        try:
            async with asyncio.timeout(told.began + self._spec.answer_seconds - time.monotonic()):
                news = await job.next()
        except TimeoutError:
            raise late(self._spec.answer_seconds) from None
        if news.end == "memory":
            said = "There is too little memory for this request now."
            raise Problem(503, said, kind="server_error", code="memory")
        if news.end == "failed":
            raise failed()
        if told.first is None:
            told.first = time.monotonic() - told.began
        return news

    async def _events(
        self,
        form: Form,
        choices: Sequence[Choice],
        before: Sequence[str],
        prompts: Sequence[tuple[int, ...]],
        drawing: AsyncIterator[tuple[int, str, News] | None],
        *,
        usage_at_end: bool,
    ) -> AsyncIterator[str]:
        more = {"usage": None} if usage_at_end else {}
        async with aclosing(drawing):  # type: ignore[type-var]
            for chunk in form.begin(choices, before, more):
                yield chunk
            try:
                async for told in drawing:
                    if told is not None:
                        number, new, news = told
                        for chunk in form.news(number, choices[number], new, news, more):
                            yield chunk
            except Problem as problem:
                yield event(problem.body)
                return
        if usage_at_end:
            yield form.last(usage(prompts, _drawn(choices)))
        yield DONE


def _told(request: Request, route: str) -> Told:
    told: Told = request.scope["told"]
    told.route = route
    return told


async def _body(request: Request) -> bytes:
    """A body that says that it is JSON: a page in a browser cannot send that to another site unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "Send JSON, as Content-Type: application/json.")
    try:
        return await request.body()
    except ClientDisconnect:
        raise Problem(400, "The body ended too early.") from None


async def _all(drawing: AsyncIterator[Any]) -> None:
    async for _ in drawing:
        pass


async def _unless_gone(request: Request, work: Any) -> None:
    """Await it, and give it up when the client leaves meanwhile."""
    task = asyncio.ensure_future(work)
    leaves = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaves), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Problem(499, "The client has left.")
        await task
    finally:
        for each in (task, leaves):
            each.cancel()
            with suppress(asyncio.CancelledError, Problem):
                await each


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _drawn(choices: Sequence[Choice]) -> int:
    return sum(len(choice.tokens) for choice in choices)
