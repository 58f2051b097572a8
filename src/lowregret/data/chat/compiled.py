"""A chat template compiled and rendered as transformers does, without transformers. Torch-free.

What a template may use is what `transformers.utils.chat_template_utils` gives it (version 5): a sandbox, blocks
trimmed, `break` and `continue`, `raise_exception`, a `tojson` that leaves HTML alone, `strftime_now`, and the tag
`generation`. A test holds the texts to those of transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret.errors import ModelError
from lowregret.strict_json import to_json

if TYPE_CHECKING:
    from jinja2 import Template

_TODAY = re.compile(r"""strftime_now\(\s*(["'])(?P<form>.*?)\1\s*\)""")
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
FIXED_DATE = date(2024, 7, 26)
"""What templates that print today's date print here, so that a run can be repeated; Llama 3's own default."""


@lru_cache(maxsize=8)
def with_fixed_date(template: str) -> str:
    """The template with every call for today's date replaced by a date that stays."""
    return _TODAY.sub(lambda found: repr(FIXED_DATE.strftime(found["form"])), template)


@lru_cache(maxsize=8)
def compile_template(template: str) -> Template:
    """Compile a chat template. Raises ModelError with the line when it is no template."""
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
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the tokenizer's chat template does not compile: line {error.lineno}: {error.message}. Repair the "
            "template (chat_template.jinja, or chat_template in tokenizer_config.json), or fetch the base again."
        ) from None


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The text of a chat. Raises whatever the template raises: it is a program by somebody else.

    `tokens`: special tokens by the names that a template knows them by, such as `eos_token`.
    """
    return compile_template(with_fixed_date(template)).render(
        messages=[_as_passed_on(message) for message in messages],
        tools=list(tools) if tools else None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **tokens,
    )


@dataclass(frozen=True)
class FolderTemplate:
    """The chat template of a model's folder."""

    template: str
    tokens: Mapping[str, str]
    """Special tokens by the names that a template knows them by, such as `eos_token`."""

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The text of a chat, as `render` makes it."""
        return render(self.template, messages, tools, self.tokens)


def _as_passed_on(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers passes it on: without keys that are null, its thought under all names for it."""
    given = {key: value for key, value in message.items() if value is not None}
    thought = next((given[name] for name in _THOUGHTS if name in given), None)
    return given if thought is None else {"thinking": thought, **given, "reasoning_content": thought}


def read_template(folder: Path) -> FolderTemplate | None:
    """The template that the tokenizer of a folder would use; None when it has none. It is not compiled yet."""
    config = _read(folder / "tokenizer_config.json")
    template: Any = config.get("chat_template")
    with suppress(OSError, ValueError):
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(template, list):  # several, by name
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        return None
    named = {**_read(folder / "special_tokens_map.json"), **config}
    tokens = {name: _token(value) for name, value in named.items() if name.endswith("_token")}
    return FolderTemplate(template, {name: token for name, token in tokens.items() if token is not None})


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _token(value: Any) -> str | None:
    """A special token in tokenizer_config.json: text, or a table with `content`."""
    held = value.get("content") if isinstance(value, dict) else value
    return held if isinstance(held, str) else None
