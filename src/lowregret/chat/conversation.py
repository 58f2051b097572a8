"""What one model and the user have said to each other, as the tokens before the next reply."""

from __future__ import annotations

from dataclasses import dataclass

from lowregret.chat.voices import Voice
from lowregret.data.chat.asking import asking_ids, asking_text
from lowregret.data.chat.template import chat_format
from lowregret.data.turns import Message, speak
from lowregret.errors import DataError, SpecError
from lowregret.models.context import positions_of

MAX_TOKENS = 512
"""Of a reply, when nothing is said and the base has positions for as many again."""
_SYSTEM, _QUESTION = "lowregret instructs", "lowregret asks"


@dataclass(frozen=True)
class Asked:
    """A chat that ends with a question."""

    token_ids: tuple[int, ...]
    turns: tuple[Message, ...]
    """The system's first, if there is one."""
    forgotten: int
    """Questions, with their replies, that no longer fit and were left out, the oldest first."""


class Conversation:
    """One model's own history; a question joins it when it has been answered."""

    def __init__(self, voice: Voice, max_tokens: int | None) -> None:
        """SpecError when the base has no positions for a reply of `max_tokens`."""
        base = voice.engine.base
        self._tokenizer, self._form = base.tokenizer, chat_format(base.tokenizer)
        self._name = voice.name
        positions = positions_of(voice.engine.model.config)
        if positions is not None and max_tokens is not None and max_tokens >= positions:
            raise SpecError(
                f"--max-tokens {max_tokens}: {base.source.asked} has {positions} positions, for the conversation and "
                f"the reply. Use less, such as {positions // 2}."
            )
        self.max_tokens = max_tokens or min(MAX_TOKENS, max((positions or 2 * MAX_TOKENS) // 2, 1))
        """Of its longest reply."""
        self._room = None if positions is None else positions - self.max_tokens
        """Tokens that a conversation may have before a reply."""
        self._system: tuple[Message, ...] = ()
        self._turns: tuple[Message, ...] = ()

    @property
    def chats(self) -> bool:
        """Whether there is a chat template; else turns are joined by blank lines."""
        return self._form.template is not None

    def begin(self, system: str) -> None:
        """Forget everything; "" for no system. SpecError when the chat template has no place for one."""
        if system and self.chats:
            try:
                written = asking_text([speak("system", _SYSTEM), speak("user", _QUESTION)], self._form)
            except DataError as error:
                raise SpecError(f"--system: {self._name}: {error} Say it in the first turn.") from None
            if _SYSTEM not in written:
                raise SpecError(f"--system: the chat template of {self._name} leaves it out. Say it in the first turn.")
        self._system = (speak("system", system),) if system else ()
        self._turns = ()

    def ask(self, text: str) -> Asked:
        """The tokens to answer. SpecError for a question that has no room of itself."""
        question = speak("user", text)
        for first in range(0, len(self._turns) + 1, 2):
            turns = (*self._system, *self._turns[first:], question)
            ids = asking_ids(turns, self._tokenizer, self._form)
            if self._room is None or len(ids) <= self._room:
                return Asked(ids, turns, first // 2)
        raise SpecError(
            f"{self._name}: this turn takes {len(ids):,} tokens, and the base's positions leave {self._room:,} beside "
            "--max-tokens. Say less, or allow shorter replies."
        )

    def answered(self, asked: Asked, reply: str) -> None:
        """Keep the question and what was said to it."""
        self._turns = (*asked.turns[len(self._system) :], speak("assistant", reply))
