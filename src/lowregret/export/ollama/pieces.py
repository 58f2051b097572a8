"""What a chat template writes around the contents of a chat, found by rendering chats and never by reading Jinja."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lowregret.data.chat.compiled import apply_template
from lowregret.data.chat.template import ChatFormat
from lowregret.errors import DataError, ModelError

Chat = Sequence[Mapping[str, str]]
_SYSTEM = "lowregretsystem0q"
_TURNS = tuple(f"lowregret{kind}{number}q" for number in range(3) for kind in ("question", "answer"))
"""Contents of user and assistant in turn: words that no template writes."""
_DATED = (
    "the chat template writes today's date; TEMPLATE has the date that this project trains with, for Ollama's template "
    "language has no date in that form"
)
_TRIMMED = "the chat template cuts blanks off the ends of contents; Ollama's template language cannot, and leaves them"
_NO_SYSTEM = (
    "the chat template refuses a system turn; TEMPLATE puts its text before the first question, a blank line between"
)
_NO_TOOLS = "TEMPLATE has no tools: what the chat template writes of them has no general form in Go"


@dataclass(frozen=True)
class Pieces:
    """The text between the contents of a chat; the beginning-of-text token is left to the file's own flag."""

    begin: str
    """Before the first question, without a system turn."""
    before_system: str
    after_system: str
    """Between the system's content and the question that it goes with."""
    system_again: str | None
    """None where the system's content goes with the first question; else it goes with the last, and this stands before
    it where that is not the first."""
    to_answer: str
    to_question: str
    end: str
    """After the last question: the generation prompt is in it."""
    bos: bool
    """Whether the template begins with BOS."""
    default: str | None
    """The system's content that the template writes of itself."""
    notes: tuple[str, ...] = ()

    def render(self, chat: Chat) -> str:
        """A chat of an optional system turn, then user and assistant in turn, by these pieces."""
        system = chat[0]["content"] if chat[0]["role"] == "system" else ""
        turns = chat[1:] if system else chat
        last = len(turns) - 1
        text = ""
        for place, turn in enumerate(turns):
            if turn["role"] == "assistant":
                text += self.to_answer
            elif system and place == (0 if self.system_again is None else last):
                text += self.before_system if place == 0 else self.system_again or ""
                text += system + self.after_system
            else:
                text += self.begin if place == 0 else self.to_question
            text += turn["content"]
        return text + (self.end if turns[-1]["role"] == "user" else "")


def find_pieces(form: ChatFormat, place: str) -> Pieces:
    """Ask a chat template.

    ModelError, with the reason, when there is none, when it refuses a plain chat, or when it writes something else
    around a turn than by the role and by whether it is the first or the last.
    """
    if form.template is None:
        raise _no_form(place, "the tokenizer has no chat template")
    asked, answers = _TURNS[0::2], _TURNS[1::2]

    def render(count: int, system: bool = False) -> str:
        return _render(form, _chat(asked[:count], answers[: count - 1], _SYSTEM if system else None), place)

    one, three = render(1), render(3)
    begin, end = _around(one, [asked[0]], place)
    _, to_answer, to_question, to_answer_again, to_question_again, end_again = _around(
        three, [asked[0], answers[0], asked[1], answers[1], asked[2]], place
    )
    if (to_answer, to_question, end) != (to_answer_again, to_question_again, end_again):
        raise _no_form(place, "the chat template writes other text around later turns than around the first")
    try:
        before, after, again = _system(render, asked, answers, place)
        notes: tuple[str, ...] = (_NO_TOOLS,)
    except DataError:
        before, after, again, notes = begin, "\n\n", None, (_NO_TOOLS, _NO_SYSTEM)
    bos = form.tokens.get("bos_token", "")
    opens = bool(bos) and begin.startswith(bos)
    if opens:
        begin, before = begin.removeprefix(bos), before.removeprefix(bos)
    default = _default(begin, before, after)
    found = Pieces(begin, before, after, again, to_answer, to_question, end, opens, default)
    notes += ((_DATED,) if form.dated else ()) + ((_TRIMMED,) if _trims(form, place) else ())
    made = replace(found, notes=notes)
    _check(form, made, bos if opens else "", place, system=_NO_SYSTEM not in notes)
    return made


def chats(system: bool) -> list[Chat]:
    """Chats that a template is held to: one question or more, with a system turn where it takes one, awkward text."""
    odd = 'He said "{{ no }}" and left \\n.\n\n\tNaïve café 東京 😀'
    plain = [_chat(("Hello there.",), (), None), _chat(("One", "two", odd), ("a", odd), None)]
    if not system:
        return plain
    return [*plain, _chat((odd,), (), "Be brief."), _chat(("One", "two"), ("a",), odd)]


def _chat(questions: Sequence[str], answers: Sequence[str], system: str | None) -> Chat:
    turns = [{"role": "system", "content": system}] if system is not None else []
    for place, question in enumerate(questions):
        turns.append({"role": "user", "content": question})
        if place < len(answers):
            turns.append({"role": "assistant", "content": answers[place]})
    return turns


def _render(form: ChatFormat, chat: Chat, place: str) -> str:
    assert form.template is not None
    try:
        return apply_template(form.tokens, form.template, chat, add_generation_prompt=True)
    except DataError as error:
        if chat[0]["role"] == "system":
            raise
        raise _no_form(place, str(error).rstrip(".")) from None


def _around(text: str, contents: Sequence[str], place: str) -> list[str]:
    """The text before, between and after contents that stand in it once each, in this order."""
    found = []
    for content in contents:
        before, there, text = text.partition(content)
        if not there or content in text:
            raise _no_form(place, "the chat template does not write every turn once and in order")
        found.append(before)
    return [*found, text]


def _system(
    render: Callable[[int, bool], str], asked: Sequence[str], answers: Sequence[str], place: str
) -> tuple[str, str, str | None]:
    """(before, after, what stands before it in a later turn or None). DataError when it is refused."""
    before, after, _ = _around(render(1, True), [_SYSTEM, asked[0]], place)
    two = render(2, True)
    if two.find(_SYSTEM) < two.find(asked[0]):
        return before, after, None
    parts = _around(two, [asked[0], answers[0], _SYSTEM, asked[1]], place)
    return before, after, parts[2]


def _default(begin: str, before: str, after: str) -> str | None:
    """What stands in the place of a system's content where there is none."""
    if begin == before or not begin.startswith(before) or not begin.endswith(after) or not after:
        return None
    found = begin[len(before) : len(begin) - len(after)]
    return found if found and found == found.strip() else None


def _trims(form: ChatFormat, place: str) -> bool:
    return _render(form, _chat((" blanks ",), (), None), place).find(" blanks ") < 0


def _check(form: ChatFormat, pieces: Pieces, bos: str, place: str, *, system: bool) -> None:
    """ModelError when a chat is not what the pieces make of it."""
    for chat in chats(system):
        if bos + pieces.render(chat) != _render(form, chat, place):
            raise _no_form(place, "the chat template does not treat all contents alike")


def _no_form(place: str, why: str) -> ModelError:
    return ModelError(
        f"{place}: no Modelfile can be written: {why}. Serve the GGUF file with llama.cpp, which runs chat templates "
        "as they are (--format gguf; llama-server --jinja)."
    )
