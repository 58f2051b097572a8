"""llama.cpp in a process of its own: it ends the whole process where it meets what it did not expect.

`python -m lowregret.export.gguf.worker QUESTIONS ANSWERS`: both are JSON files. Of lowregret the writer of JSON
alone is imported.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from lowregret.strict_json import to_json

_LIKELY = 2048
"""How many of the most probable tokens are looked among first."""


def main(questions: str, answers: str) -> None:
    """Load the file that is named, answer the questions."""
    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    server = _server(asked)
    found = {
        "tokens": [_tokens(server, text) for text in asked["texts"]],
        "continued": [_continued(server, ids, asked["continue"], asked["top"]) for ids in asked["prompts"]],
        "log_probabilities": [_scored(server, row["ids"], row["at"], asked["rows"]) for row in asked["scored"]],
    }
    Path(answers).write_text(to_json(found), encoding="utf-8")


def _server(asked: dict[str, Any]) -> Any:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = asked["file"]
    if asked["lora"]:
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(asked["lora"], 1.0)]
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = asked["context"], 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = asked["threads"]
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup, settings.swa_full, settings.port, settings.verbosity = False, True, 0, 1
    return xllamacpp.Server(settings)


def _post(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    data, kind = to_json(body).encode(), {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(server.listening_address + path, data, kind)) as answer:
        return dict(json.load(answer))


def _tokens(server: Any, text: str) -> list[int]:
    """A text as llama.cpp reads it, with whatever it puts around one."""
    return list(_post(server, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])


def _complete(server: Any, ids: list[int], count: int, top: int, **more: Any) -> dict[str, Any]:
    asked = {"prompt": ids, "n_predict": count, "n_probs": top, "temperature": 0.0, "return_tokens": True}
    return _post(server, "/completion", {**asked, "cache_prompt": True, **more})


def _continued(server: Any, ids: list[int], count: int, top: int) -> dict[str, Any]:
    """The greedy continuation, and the log-probabilities of the most probable tokens at its places. llama.cpp leaves
    out those of a token that ends inside a character: what follows the first such has no sure place."""
    said = _complete(server, ids, count, top)
    tops = []
    for token, step in zip(said["tokens"], said["completion_probabilities"], strict=False):
        if step["id"] != token:
            break
        tops.append([[other["id"], other["logprob"]] for other in step["top_logprobs"]])
    return {"tokens": said["tokens"], "tops": tops}


def _scored(server: Any, ids: list[int], at: list[int], rows: int) -> list[float]:
    """The log-probability of the tokens at these places, each after all before it. Of all tokens only where it is not
    among the most probable: a list of all takes long. What is drawn plays no part, and is made a whole character."""
    letter = _tokens(server, "a")[-1]
    found = []
    for place in at:
        for top in (_LIKELY, rows):
            said = _complete(server, ids[:place], 1, top, logit_bias=[[letter, 1e3]])
            known = {other["id"]: other["logprob"] for other in said["completion_probabilities"][0]["top_logprobs"]}
            if ids[place] in known:
                found.append(float(known[ids[place]]))
                break
        else:
            raise RuntimeError(f"no log-probability of token {ids[place]}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
