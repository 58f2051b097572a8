"""Chats and texts → the tokens before an answer, and tokens → texts, by the base's tokenizer."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, final

from lowregret import limits
from lowregret.data.chat.asking import asking_ids
from lowregret.data.chat.template import chat_format
from lowregret.data.turns import encodable, read_messages, read_tools
from lowregret.engine.engine import Engine
from lowregret.errors import LowregretError
from lowregret.foreign_text import without_paths
from lowregret.models.context import positions_of
from lowregret.models.stops import stops
from lowregret.serve.forms import Forms
from lowregret.serve.problems import Problem

T = TypeVar("T")
UNSAID = 2**17
"""Tokens of a prompt and its answer, at most, where the base does not say."""
_MISSING = "\N{REPLACEMENT CHARACTER}"


class _TooLong(BaseException):  # no template, nor what renders it, takes it for its own
    """Raised in the thread that takes too long."""


@final
class Prompts:
    """What a server asks the tokenizer and the chat template of its base."""

    def __init__(self, engine: Engine) -> None:
        base = engine.base
        self._tokenizer, self._form = base.tokenizer, chat_format(base.tokenizer)
        self.positions = positions_of(engine.model.config)
        """Tokens of a prompt and its answer, at most; None when the base does not say."""
        embedding: Any = engine.model.get_input_embeddings()
        self.vocabulary = int(embedding.weight.shape[0])
        ends = stops(base)
        self.end_ids, self.end_texts = ends.ids, ends.texts

    def of_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[int, ...]:
        """The tokens of a chat up to its answer. Problem 400 when it is none, or the template refuses it."""

        def read() -> tuple[int, ...]:
            turns = read_messages(list(messages), "messages").messages
            described = read_tools(list(tools), "tools") if tools else None
            if described is not None and self._form.template_for(described) is None:
                raise Problem(400, "tools: this base has no chat template, which would show them to it.", param="tools")
            return asking_ids(turns, self._tokenizer, self._form, described)

        return _refused("messages", read)

    def forms(self) -> Forms:
        """What answers may be made to be."""
        return Forms(self._tokenizer, self.vocabulary, self.end_ids)

    def of_text(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, with BOS where the base has it."""

        def read() -> tuple[int, ...]:
            return tuple(
                self._tokenizer(encodable(text, "prompt"), add_special_tokens=False, verbose=False)["input_ids"]
            )

        ids = _refused("prompt", read)
        return (self._form.bos_id, *ids) if self._form.adds_bos and self._form.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        """A token as text, special ones too."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def piece_bytes(self, token: int) -> list[int] | None:
        """The bytes of a token; None where it is a part of a character."""
        text = self.piece(token)
        return None if _MISSING in text else list(text.encode("utf-8", errors="replace"))

    def room(self, prompt: Sequence[int], asked: int | None, default: int | None) -> int:
        """Tokens that an answer may have. Problem 400 for a prompt of no token, of unknown ones, or too many."""
        if not prompt:
            raise Problem(400, "The prompt has no token.", param="prompt")
        if min(prompt) < 0 or max(prompt) >= self.vocabulary:
            raise Problem(400, f"The prompt has a token that is none of 0 to {self.vocabulary - 1}.", param="prompt")
        whole = UNSAID if self.positions is None else self.positions
        most = whole - len(prompt)
        if most < 1 or (asked is not None and asked > most):
            wanted = f" and {asked} are asked for" if asked is not None else ""
            raise Problem(
                400,
                f"This model has {whole} positions here; the prompt takes {len(prompt)} tokens{wanted}.",
                param="max_tokens" if most >= 1 else "messages",
                code="context_length_exceeded",
            )
        if asked is not None:
            return asked
        return min(most, default or (512 if self.positions is None else most))


def _refused(param: str, read: Callable[[], T]) -> T:
    """What is read in the time that there is for it; Problem 400 for whatever the data's reader says of it."""
    try:
        with _in_time(limits.RENDER_SECONDS):
            return read()
    except Problem:
        raise
    except _TooLong:
        raise Problem(
            400, f"{param}: it takes more than {limits.RENDER_SECONDS:g} seconds to write.", param=param
        ) from None
    except (LowregretError, RecursionError, MemoryError) as error:
        said = without_paths(str(error)) if isinstance(error, LowregretError) else type(error).__name__
        raise Problem(400, f"{param}: {said}", param=param) from None


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    """Raise in this thread, which is not the main one, once the time is over: a template is a program."""
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def end() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
