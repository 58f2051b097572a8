"""A Modelfile: what Ollama is told of a model (ollama, its page on the Modelfile; variables: template/template.go)."""

from __future__ import annotations

from collections.abc import Sequence

from lowregret.errors import ModelError
from lowregret.export.ollama.pieces import Pieces
from lowregret.strict_json import to_json


def go_template(pieces: Pieces) -> str:
    """The pieces as a program of Go's text/template.

    Ollama gives `.Messages`, each with `.Role` and `.Content`, those in a row of one role joined, and `.System`, the
    contents of all system turns. All text is quoted and all blanks between actions are cut, so what is written is what
    stands in quotes.
    """
    first = "(not $begun)"
    with_first = pieces.system_again is None
    there = f"(and $.System {first})" if with_first else "(and $.System (eq $place $last))"
    head = _text(pieces.before_system)
    if not with_first:
        head = f"{{{{- if $begun }}}}{_text(pieces.system_again or '')}{{{{- else }}}}{head}{{{{- end }}}}"
    lines = [
        '{{- $begun := false }}{{ $role := "" }}{{ $last := -1 }}',
        '{{- range $place, $turn := .Messages }}{{ if eq $turn.Role "user" }}{{ $last = $place }}{{ end }}{{ end }}',
        "{{- range $place, $turn := .Messages }}",
        '{{- if eq $turn.Role "user" }}',
        f"{{{{- if {there} }}}}{head}{{{{- $.System }}}}{_text(pieces.after_system)}",
        f"{{{{- else if $begun }}}}{_text(pieces.to_question)}{{{{- else }}}}{_text(pieces.begin)}{{{{- end }}}}",
        "{{- $turn.Content }}{{ $begun = true }}{{ $role = $turn.Role }}",
        '{{- else if eq $turn.Role "assistant" }}',
        f"{_text(pieces.to_answer)}{{{{- $turn.Content }}}}{{{{ $begun = true }}}}{{{{ $role = $turn.Role }}}}",
        "{{- end }}",
        "{{- end }}",
        f'{{{{- if eq $role "user" }}}}{_text(pieces.end)}{{{{- end }}}}',
    ]
    return "\n".join(lines)


def modelfile(file: str, pieces: Pieces, stops: Sequence[str], licence: str | None) -> str:
    """The text of a Modelfile for a GGUF file that lies beside it; ModelError for a text without a spelling there."""
    lines = [f"FROM ./{file}", f"TEMPLATE {_quoted(go_template(pieces), 'the template')}"]
    if pieces.default is not None:
        lines.append(f"SYSTEM {_quoted(pieces.default, 'the default system turn')}")
    lines += [f"PARAMETER stop {_quoted(stop, 'a stop text')}" for stop in stops]
    if licence:
        lines.append(f"LICENSE {_quoted(licence, 'the licence')}")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """An action that writes a text as it is. A JSON string is a string of Go's, if no character is in two halves."""
    return f"{{{{- {to_json(text, ensure_ascii=False)} }}}}" if text else ""


def _quoted(text: str, what: str) -> str:
    """In three quotes, between which Ollama takes a text as it is (parser/parser.go, `unquote`)."""
    if '"""' in text or text.endswith('"'):
        raise ModelError(
            f'no Modelfile can be written: {what} has """ in it or ends with a quote: {text[-60:]!r}. '
            "Change that in the model's folder, or serve the GGUF file with llama.cpp (--format gguf; llama-server "
            "--jinja)."
        )
    return f'"""{text}"""'
