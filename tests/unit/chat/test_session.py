"""Turns and commands of a chat: histories of their own, room, systems, and what a line may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType

import pytest

from byte_tokenizers import byte_tokenizer
from lowregret.chat.conversation import Conversation
from lowregret.chat.session import Said, Session
from lowregret.chat.voices import Voice
from lowregret.engine import Engine, SamplingParams
from lowregret.errors import SpecError
from lowregret.models.load import Base, load_base, resolve
from lowregret.spec import LoRA
from lowregret.spec.chat import ChatSpec

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
NO_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT


class Heard:
    """Keeps all that a session tells."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.notes: list[str] = []
        self.streamed: dict[str, str] = {}
        self._now = ""

    def begin(self, model: str) -> None:
        self._now = model
        self.streamed[model] = ""

    def text(self, new: str) -> None:
        self.streamed[self._now] += new

    def end(self, said: Said) -> None:
        self.said.append(said)

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture(scope="module")
def engine() -> Engine:
    found = Engine(load_base(resolve("tiny")))
    found.add_policy("a", LoRA(rank=2))
    return found


def session(engine: Engine, names: Sequence[str] = ("base",), **spec: object) -> tuple[Session, Heard]:
    heard = Heard()
    voices = [Voice(name, engine, name) for name in names]
    return Session(voices, ChatSpec(**{"max_tokens": 24, **spec}), heard), heard


def voice(bases: ModuleType, template: str | None, **config: object) -> Voice:
    """A small base that reads bytes."""
    base = bases.small_base("llama")
    return Voice("base", Engine(Base(base.model, byte_tokenizer(template), base.source)), "base")


def test_each_model_answers_with_its_own_history(engine: Engine) -> None:
    talk, heard = session(engine, ("base", "a"))
    assert talk.take("What is 2 + 3?")
    assert [(said.turn, said.model) for said in heard.said] == [(1, "base"), (1, "a")]
    assert heard.said[0].reply == heard.said[1].reply == heard.streamed["a"] == "2 + 3 = 5\nAnswer: 5"  # B is 0
    assert {said.ended for said in heard.said} == {"itself"}


def test_a_second_turn_reads_the_first_and_reset_forgets_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    stream = engine.stream

    def watched(policy: str, prompt: Sequence[int], params: SamplingParams, on_token: object) -> object:
        read.append(str(engine.base.tokenizer.decode(list(prompt))))
        return stream(policy, prompt, params, on_token)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "stream", watched)
    talk, heard = session(engine, system="Be brief.")
    lines = "Find 1 + 1.", "And 2 + 2?", "/reset", "Find 3 + 3.", "/system Be long.", "Find 4 + 4.", "/system", "x"
    for line in lines:
        assert talk.take(line)

    def holds(turn: int, *texts: str) -> list[bool]:
        return [text in read[turn] for text in texts]

    assert holds(1, "Find 1 + 1.", heard.said[0].reply, "Be brief.") == [True, True, True]
    assert holds(2, "Find 1 + 1.", "Be brief.") == [False, True]
    assert holds(3, "Be long.", "Be brief.", "Find 3") == [True, False, False]
    assert holds(4, "Be long.", "system") == [False, False]


def test_commands(engine: Engine) -> None:
    talk, heard = session(engine)
    assert talk.take("/help")
    assert [re.split(" ", note)[0] for note in heard.notes[-4:]] == ["/reset", "/system", "/help", "/quit"]
    assert talk.take("  \n")
    with pytest.raises(SpecError, match=r"/rest: no such command\. Did you mean '/reset'\?"):
        talk.take("/rest")
    assert not heard.said
    assert talk.take("//etc is a folder")
    assert heard.said[0].prompt == "/etc is a folder"
    assert not talk.take("/quit")


def test_a_stop_keeps_what_was_said_and_asks_no_one_else(engine: Engine) -> None:
    talk, heard = session(engine, ("base", "a"))
    asked = iter([False, False, False, True])
    assert talk.take("Work out 5 + 1 - 1 - 1.", lambda: next(asked, True))
    (said,) = heard.said
    assert (said.model, said.ended, said.tokens) == ("base", "stopped", 3)
    assert heard.streamed["base"] == said.reply
    assert heard.notes[-1] == "a: was not asked"


def test_a_reply_that_runs_to_its_end_says_so(engine: Engine) -> None:
    talk, heard = session(engine, max_tokens=3)
    talk.take("Work out 5 + 1 - 1 - 1.")
    assert (heard.said[0].ended, heard.said[0].tokens) == ("max_tokens", 3)


def test_draws_differ_by_turn_and_seed_and_can_be_repeated(engine: Engine) -> None:
    def replies(seed: int) -> list[str]:
        talk, heard = session(engine, temperature=3.0, seed=seed)
        for _ in range(2):
            talk.take("Find 1 + 1.")
            talk.take("/reset")
        return [said.reply for said in heard.said]

    first = replies(1)
    assert first == replies(1)
    assert len({*first, *replies(2)}) == 4


def test_the_oldest_turns_go_when_there_is_no_room(bases: ModuleType) -> None:
    """The base has 64 positions, and a turn of this chat takes 2 + its letters or so."""
    talk = Conversation(voice(bases, "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"), 14)
    talk.begin("")
    for text, reply in (("a" * 20, "b" * 5), ("c" * 10, "d" * 5)):
        asked = talk.ask(text)
        assert asked.forgotten == 0
        talk.answered(asked, reply)
    asked = talk.ask("e" * 10)
    assert asked.forgotten == 1
    assert [turn["content"][0] for turn in asked.turns] == ["c", "d", "e"]
    assert len(asked.token_ids) <= 50
    with pytest.raises(SpecError, match=r"base: this turn takes 61 tokens, and the base's positions leave 50"):
        talk.ask("f" * 60)


def test_a_system_message_stays_when_old_turns_go(bases: ModuleType) -> None:
    talk = Conversation(voice(bases, "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"), 14)
    talk.begin("s" * 8)
    talk.answered(talk.ask("a" * 20), "b" * 5)
    asked = talk.ask("c" * 20)
    assert [turn["content"][0] for turn in asked.turns] == ["s", "c"]


@pytest.mark.parametrize(("template", "words"), [(NO_SYSTEM, "leaves it out"), (REFUSES, "no system here")])
def test_a_template_without_a_system_is_told(bases: ModuleType, template: str, words: str) -> None:
    talk = Conversation(voice(bases, template), 10)
    talk.begin("")
    with pytest.raises(SpecError, match=rf"--system: .*{words}"):
        talk.begin("Be brief.")


def test_replies_leave_room_for_the_conversation(bases: ModuleType) -> None:
    assert Conversation(voice(bases, CHAT), None).max_tokens == 32
    with pytest.raises(SpecError, match=r"--max-tokens 64: .* has 64 positions"):
        Conversation(voice(bases, CHAT), 64)


def test_without_a_template_turns_are_joined_as_in_training_and_it_is_said_once(bases: ModuleType) -> None:
    bare = voice(bases, None)
    heard = Heard()
    Session([bare, bare], ChatSpec(max_tokens=5), heard)
    assert sum("no chat template" in note for note in heard.notes) == 1
    talk = Conversation(bare, 10)
    talk.begin("")
    talk.answered(talk.ask("Hi"), "Ho")
    assert bare.engine.base.tokenizer.decode(list(talk.ask("Hey").token_ids)) == "Hi\n\nHo<|im_end|>\n\nHey\n\n"
