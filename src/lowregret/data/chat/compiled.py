"""A chat template compiled and rendered as transformers does, without transformers. Torch-free.

What a template may use is what `transformers.utils.chat_template_utils` gives it (version 5): a sandbox, blocks
trimmed, `break` and `continue`, `raise_exception`, a `tojson` that leaves HTML alone, `strftime_now`, and the tag
`generation`. A test holds the texts to those of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret import limits
from lowregret.errors import DataError, LowregretError, ModelError
from lowregret.foreign import TooMuch, bounded, read_json, read_text, reason
from lowregret.strict_json import to_json

if TYPE_CHECKING:
    from jinja2 import Template

_TODAY = re.compile(r"""strftime_now\(\s*(["'])(?P<form>.*?)\1\s*\)""")
REFUSES = "the chat template refuses this row: "
"""How the error of such a row begins."""
_FETCH = "Fetch the file again."
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
FIXED_DATE = date(2024, 7, 26)
"""What templates that print today's date print here, so that a run can be repeated; Llama 3's own default."""


@contextmanager
def rendering() -> Iterator[None]:
    """Around the work of a chat template, a program by somebody else: DataError for whatever it raises, by which it
    refuses a row; ModelError when it takes more time or memory than any chat needs."""
    try:
        with bounded(limits.RENDER_SECONDS, limits.RENDER_BYTES):
            yield
    except (TooMuch, MemoryError) as error:
        said = reason(error) if isinstance(error, TooMuch) else f"it takes more than {limits.RENDER_BYTES:,} bytes"
        raise _no_template(f"cannot be used: {said}") from None
    except LowregretError:
        raise
    except Exception as error:
        raise DataError(f"{REFUSES}{error}.") from None


def _no_template(said: str) -> ModelError:
    return ModelError(
        f"the tokenizer's chat template {said}. Repair the template (chat_template.jinja, or "
        "chat_template in tokenizer_config.json), or fetch the base again."
    )


@lru_cache(maxsize=8)
def with_fixed_date(template: str) -> str:
    """The template with every call for today's date replaced by a date that stays. ModelError for a text that is no
    template."""
    if len(template) > limits.TEMPLATE_BYTES:
        raise _no_template(f"has {len(template):,} characters, and at most {limits.TEMPLATE_BYTES:,} are read")
    with _compiling():
        return _TODAY.sub(lambda found: repr(FIXED_DATE.strftime(found["form"])), template)


@contextmanager
def _compiling() -> Iterator[None]:
    """The compiler computes what is constant: it may take as long as the template would."""
    try:
        with bounded(limits.RENDER_SECONDS, limits.RENDER_BYTES):
            yield
    except (TooMuch, Exception) as error:
        number = getattr(error, "lineno", None)  # of Jinja's own
        line = f"line {number}: " if number else ""
        raise _no_template(f"does not compile: {line}{reason(error)}") from None


@lru_cache(maxsize=8)
def compile_template(template: str) -> Template:
    """Compile a chat template. Raises ModelError, with the line, when it is no template."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock, Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` … `{% endgeneration %}`: what is between is written as it stands."""

        tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

        def parse(self, parser: Parser) -> Node:
            """Read one block."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

        def _written(self, caller: Any) -> Any:
            return caller()

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return to_json(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": FIXED_DATE.strftime}
    with _compiling():
        return environment.from_string(template)


def apply_template(
    tokens: Mapping[str, str],
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None = None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The text that `apply_chat_template` makes of a chat.

    Raises DataError when the template refuses it, ModelError for what is no template.

    `tokens`: special tokens by the names that a template knows them by, such as `eos_token`.
    """
    compiled = compile_template(with_fixed_date(template))
    with rendering():
        text = compiled.render(
            messages=[_as_passed_on(message) for message in messages],
            tools=list(tools) if tools else None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokens,
        )
    if len(text) > (most := limits.WRITTEN * limits.ROW_CHARACTERS.value):
        raise DataError(
            f"the chat template makes {len(text):,} characters of this row, and at most {most:,} are read. "
            f"{limits.ROW_CHARACTERS.raised}."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{REFUSES}it writes half of a surrogate pair, which is no text.") from None
    return text


@dataclass(frozen=True)
class FolderTemplate:
    """The chat template of a model's folder."""

    template: str
    tokens: Mapping[str, str]
    """Special tokens by the names that a template knows them by, such as `eos_token`."""

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The text of a chat, as `apply_template` makes it."""
        return apply_template(self.tokens, self.template, messages, tools)


def _as_passed_on(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers passes it on: without keys that are null, its thought under all names for it."""
    given = {key: value for key, value in message.items() if value is not None}
    thought = next((given[name] for name in _THOUGHTS if name in given), None)
    return given if thought is None else {"thinking": thought, **given, "reasoning_content": thought}


def read_template(folder: Path) -> FolderTemplate | None:
    """The template that the tokenizer of a folder would use; None when it has none. It is not compiled yet."""
    config = _read(folder / "tokenizer_config.json")
    template: Any = config.get("chat_template")
    with suppress(FileNotFoundError):
        template = read_text(folder / "chat_template.jinja", ModelError, _FETCH, limits.TEMPLATE_BYTES)
    if isinstance(template, list):  # several, by name
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        return None
    every = {**_read(folder / "special_tokens_map.json"), **config}
    tokens = {name: _token(value) for name, value in every.items() if name.endswith("_token")}
    return FolderTemplate(template, {name: token for name, token in tokens.items() if token is not None})


def _read(path: Path) -> dict[str, Any]:
    try:
        held = read_json(path, ModelError, _FETCH, finite=False)
    except FileNotFoundError:
        return {}
    if not isinstance(held, dict):
        raise ModelError(f"{path}: holds no JSON object. {_FETCH}")
    return held


def _token(value: Any) -> str | None:
    """A special token in tokenizer_config.json: text, or a table with `content`."""
    held = value.get("content") if isinstance(value, dict) else value
    return held if isinstance(held, str) else None
