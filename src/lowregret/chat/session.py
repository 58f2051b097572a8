"""Lines in, replies out: a turn of all models, one after the other, and the commands between turns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from lowregret.chat.conversation import Conversation
from lowregret.chat.voices import Voice
from lowregret.engine import SamplingParams
from lowregret.engine.device import out_of_memory
from lowregret.engine.sampling.stream import TextStream
from lowregret.errors import ModelError, SpecError, did_you_mean
from lowregret.models.stops import stops
from lowregret.spec.chat import ChatSpec

COMMANDS = {
    "/reset": "begin anew",
    "/system TEXT": "begin anew with this system message; without a text, with none",
    "/help": "show these lines",
    "/quit": "end (so does Ctrl-D)",
}
"""What a line may be that is no turn; a turn that begins with a slash is given two."""


@dataclass(frozen=True)
class Said:
    """A reply."""

    turn: int
    model: str
    prompt: str
    reply: str
    tokens: int
    """Drawn ones, that which ended it included."""
    ended: Literal["itself", "max_tokens", "stopped"]


class Listener(Protocol):
    """Where replies go."""

    def begin(self, model: str) -> None:
        """A model is about to reply."""

    def text(self, new: str) -> None:
        """More of its reply."""

    def end(self, said: Said) -> None:
        """The reply is whole."""

    def note(self, line: str) -> None:
        """Something to know beside the replies."""


class Session:
    """A conversation with each of several models, who do not hear each other."""

    def __init__(self, voices: Sequence[Voice], spec: ChatSpec, listener: Listener) -> None:
        self._spec, self._listener = spec, listener
        self._talks = [(voice, Conversation(voice, spec.max_tokens)) for voice in voices]
        self._turn = 0
        self._begin(spec.system)
        for line in dict.fromkeys(line for voice in voices for line in _remarks(voice)):
            listener.note(line)
        if not all(talk.chats for _, talk in self._talks):
            listener.note("no chat template: turns are joined by blank lines, and what follows them is the reply")

    def _begin(self, system: str) -> None:
        for _, talk in self._talks:
            talk.begin(system)
        self._system = system

    def take(self, line: str, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Obey a command or answer a turn; False after the last. SpecError for an unknown command.

        `should_stop` is asked after each token: True ends the reply that is being drawn, which is kept as it is, and
        the models after it are not asked.
        """
        said = line.strip()
        if not said:
            return True
        if said.startswith("/") and not said.startswith("//"):
            return self._obey(*said.partition(" ")[::2])
        self._turn += 1
        text = said.removeprefix("/") if said.startswith("//") else said
        for voice, talk in self._talks:
            if should_stop():
                self._listener.note(f"{voice.name}: was not asked")
            else:
                self._reply(voice, talk, text, should_stop)
        return True

    def _obey(self, command: str, rest: str) -> bool:
        if command == "/quit":
            return False
        if command == "/help":
            for name, meaning in COMMANDS.items():
                self._listener.note(f"{name:13} {meaning}")
        elif command == "/reset":
            self._begin(self._system)
            self._listener.note("a new conversation")
        elif command == "/system":
            self._begin(rest.strip())
            self._listener.note("a new conversation " + ("with this system message" if rest.strip() else "without one"))
        else:
            known = [name.partition(" ")[0] for name in COMMANDS]
            raise SpecError(f"{command}: no such command. {did_you_mean(command, known)} (//… sends a turn /….)")
        return True

    def _reply(self, voice: Voice, talk: Conversation, text: str, should_stop: Callable[[], bool]) -> None:
        asked = talk.ask(text)
        if asked.forgotten:
            self._listener.note(
                f"{voice.name}: the {asked.forgotten} oldest turns no longer fit into its positions, and it has "
                "forgotten them"
            )
        params = self._params(voice, talk.max_tokens)
        parts: list[str] = []
        stream = TextStream(params, _decoder(voice))

        def tell(new: str) -> None:
            if new:
                parts.append(new)
                self._listener.text(new)

        def on_token(token: int) -> bool:
            tell(stream.add(token))
            return not should_stop()

        self._listener.begin(voice.name)
        with _memory(voice):
            drawn = voice.engine.stream(voice.policy, asked.token_ids, params, on_token)
        tell(stream.end(drawn))
        whole = "".join(parts)
        talk.answered(asked, whole)
        full = len(drawn.token_ids) == talk.max_tokens
        self._listener.end(
            Said(
                turn=self._turn,
                model=voice.name,
                prompt=text,
                reply=whole,
                tokens=len(drawn.token_ids),
                ended="itself" if drawn.finished else "max_tokens" if full else "stopped",
            )
        )

    def _params(self, voice: Voice, max_tokens: int) -> SamplingParams:
        ends = stops(voice.engine.base)
        digest = hashlib.sha256(f"chat {self._spec.seed} {self._turn}".encode()).digest()
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self._spec.temperature,
            stop_ids=ends.ids,
            stop_texts=ends.texts,
            seed=int.from_bytes(digest[:6], "big"),
        )


@contextmanager
def _memory(voice: Voice) -> Iterator[None]:
    """ModelError where there is too little."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(f"{voice.name}: out of memory. Begin anew by /reset, or allow shorter replies.") from None


def _decoder(voice: Voice) -> Callable[[list[int]], str]:
    tokenizer = voice.engine.base.tokenizer
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _remarks(voice: Voice) -> list[str]:
    return [*stops(voice.engine.base).lines(), *voice.engine.sampling_path.lines()]
