"""A folder for `ollama create`."""

from __future__ import annotations

import time
from pathlib import Path

from lowregret.data.chat.template import chat_format
from lowregret.errors import ModelError
from lowregret.export.gguf.vocabulary import folder_stops
from lowregret.export.gguf.write import Written, write_gguf
from lowregret.export.hub_base import base_licence
from lowregret.export.ollama.modelfile import modelfile
from lowregret.export.ollama.pieces import find_pieces
from lowregret.export.weights import Weights
from lowregret.foreign import read_text
from lowregret.models.load import Source, load_tokenizer
from lowregret.runs.atomic import replacing_folder, write_bytes

MODEL, MODELFILE = "model.gguf", "Modelfile"
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
_AGAIN = "Repair the file, or take it away."


def write_ollama(weights: Weights, folder: Path, kind: str = "Q8_0") -> Written:
    """Write `model.gguf` and a `Modelfile` to a folder, which is replaced when both are whole.

    BOS is put before a chat exactly where the chat template writes it. Raises ModelError for a chat template that has
    no form in Go, and whatever `write_gguf` raises.
    """
    began = time.monotonic()
    tokenizer = load_tokenizer(Source(str(weights.folder), str(weights.folder)))
    pieces = find_pieces(chat_format(tokenizer), str(weights.folder))
    stops = folder_stops(weights.folder, tokenizer)
    text = modelfile(MODEL, pieces, (*stops.names, *stops.texts), licence(weights.folder))
    with replacing_folder(folder) as partial:
        made = write_gguf(weights, partial / MODEL, kind, add_bos=pieces.bos)
        write_bytes(partial / MODELFILE, text.encode())
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Written(folder, kind, size, time.monotonic() - began, (*made.notes, *pieces.notes), pieces.bos)


def licence(folder: Path) -> str | None:
    """The licence that a model's folder states: its text, else its name in the model card; None when it states none."""
    for name in _LICENCES:
        if (folder / name).is_file():
            return read_text(folder / name, ModelError, _AGAIN).strip()
    stated = base_licence(str(folder))
    return ", ".join(stated.names) if stated is not None else None
