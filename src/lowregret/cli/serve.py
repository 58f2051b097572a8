"""`lowregret serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from lowregret.cli.chat import named_adapters
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import aside, say
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
    **flags: Any,
) -> None:
    """OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models; /health and /metrics. Any number of
    adapters answer from one copy of the base, in one batch; the model of a request names one, or the base.

    Each request leaves a line of JSON on standard error. Ctrl-C stops it once the answers have ended.
    """
    spec = build(ServeSpec, {name: value for name, value in flags.items() if value is not None})
    named = named_adapters(adapter or ())
    key = api_key if api_key is not None else os.environ.get(_KEY)
    if key is not None and (not key.strip() or not key.isascii()):
        raise SpecError("--api-key: is empty, or not ASCII. Give letters and digits, or leave it out.")
    try:
        from lowregret.serve.server import Server
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "lowregret":
            raise
        raise SpecError(f"lowregret serve needs {error.name}: pip install 'lowregret[serve]'.") from None
    server = Server(
        model,
        spec,
        adapters=named,
        root=adapter_root,
        tinker=tinker_dir,
        name=name,
        key=None if key is None else key.strip(),
    )
    for line in server.remarks:
        aside(line)
    also = "" if tinker_dir is None else f", and Tinker's clients at {server.url.removesuffix('/v1')}"
    server.run(lambda: say(f"serving {server.name} at {server.url}{also}"))
