"""`lowregret serve`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from lowregret.cli.chat import named_adapters
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import aside, say
from lowregret.cli.ship import deliver
from lowregret.errors import SpecError
from lowregret.spec import build
from lowregret.spec.serve import ServeSpec

ASKS = VerbFlags(ServeSpec)
_KEY = "LOWREGRET_API_KEY"


@verb("serve", ASKS.parameters())
def serve(
    model: Annotated[str, positional("A Hugging Face folder, a hub id, a .gguf file, or a bundled base.", "MODEL")],
    /,
    *,
    adapter: Annotated[
        list[str] | None, option("NAME=FOLDER, a LoRA in PEFT's format that is served as NAME; may be repeated.")
    ] = None,
    adapter_root: Annotated[
        Path | None,
        option("The folder below which clients may load adapters by /v1/load_lora_adapter; none may when not given."),
    ] = None,
    tinker_dir: Annotated[
        Path | None,
        option(
            "The folder that keeps what Tinker's clients train; with it Tinker's protocol is answered too, at /api/v1."
        ),
    ] = None,
    name: Annotated[
        str | None,
        option("What clients call the base; its hub id, or the last part of its folder's name, when not given."),
    ] = None,
    api_key: Annotated[
        str | None,
        option(
            f"The key that clients send as `Authorization: Bearer KEY`; {_KEY} when not given, which others on this "
            "machine do not see."
        ),
    ] = None,
    vllm: Annotated[
        str | None,
        option("With --engine vllm, more words for `vllm serve`, as one text: '--tensor-parallel-size 8'."),
    ] = None,
    **flags: Any,
) -> None:
    """OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models; /health and /metrics. Any number of
    adapters answer from one copy of the base, in one batch; the model of a request names one, or the base.

    Each request leaves a line of JSON on standard error. Ctrl-C stops it once the answers have ended.
    """
    asked = {name: value for name, value in flags.items() if value is not None}
    spec = build(ServeSpec, asked)
    named = named_adapters(adapter or ())
    key = api_key if api_key is not None else os.environ.get(_KEY)
    if key is not None and (not key.strip() or not key.isascii()):
        raise SpecError("--api-key: is empty, or not ASCII. Give letters and digits, or leave it out.")
    key = None if key is None else key.strip()
    if spec.engine == "vllm":
        for flag, value in (("--adapter-root", adapter_root), ("--tinker-dir", tinker_dir)):
            if value is not None:
                raise SpecError(f"{flag}: is of use with --engine own alone. Leave it out.")
        _become_vllm(model, spec, asked, named, name, key, _words(vllm))
        return
    if vllm is not None:
        raise SpecError("--vllm: is of use with --engine vllm alone. Leave it out.")
    try:
        from lowregret.serve.server import Server
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "lowregret":
            raise
        raise SpecError(f"lowregret serve needs {error.name}: pip install 'lowregret[serve]'.") from None
    server = Server(model, spec, adapters=named, root=adapter_root, tinker=tinker_dir, name=name, key=key)
    for line in server.remarks:
        aside(line)
    also = "" if tinker_dir is None else f", and Tinker's clients at {server.url.removesuffix('/v1')}"
    server.run(lambda: say(f"serving {server.name} at {server.url}{also}"))


def _words(text: str | None) -> Sequence[str]:
    """A text as a shell takes it apart; SpecError where a quote is not closed."""
    try:
        return shlex.split(text or "")
    except ValueError as error:
        raise SpecError(f"--vllm: {str(error).lower()}.") from None


def _become_vllm(
    model: str,
    spec: ServeSpec,
    asked: Collection[str],
    adapters: Mapping[str, Path],
    name: str | None,
    key: str | None,
    more: Sequence[str],
) -> None:
    """Let vLLM take this process's place. An adapter that it does not take is merged first, beside its folder."""
    from lowregret.cli.merge import named
    from lowregret.serve.vllm import refused, start

    kept = dict(adapters)
    for own, folder in adapters.items():
        why = refused(folder)
        if why is None:
            continue
        merged = folder.with_name(f"{folder.name}-merged")
        if len(adapters) > 1 or merged.exists():
            raise SpecError(
                f"--adapter {own}={folder}: vLLM does not take it ({why}). Serve it alone and merged: lowregret merge "
                f"--model {model} --adapter {folder} --out {merged}, then lowregret serve {merged} --engine vllm."
            )
        aside(f"vLLM does not take {own} ({why}): it is merged into {merged}, which is served as {name or own}")
        deliver(named(model, [str(folder)]), merged, "merged", None, None, None, quiet=True)
        model, name, kept = str(merged), name or own, {}
    found = start(model, spec, given=asked, adapters=kept, name=name, key=key, more=more)
    say(f"starting {shlex.join(found.arguments)}")
    os.execve(found.program, found.arguments, dict(found.environment))
