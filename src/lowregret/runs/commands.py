"""What to type next: how a shipped model is loaded, served and trained on by each program that takes its form.

The commands are text with this model's own names, quoted for the shell or spelled for Python, and tests run them.
Torch-free.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from lowregret.runs.forms import MODELFILE, Shipped
from lowregret.strict_json import to_json

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of an adapter (docs.vllm.ai, `--max-lora-rank`)."""
VLLM_PORT, LLAMA_PORT = 8000, 8080
"""On which `vllm serve` and `llama-server` listen when not told."""
TOKENS = 128
"""Of the replies that the commands ask for."""
MORE_ROWS = "more.jsonl"
"""What the file of new rows is called in the command that trains on."""
_GREETING, _BEGINNING = "Hello!", "Once upon a time"
_NO_BASE = "BASE"
OWN = "lowregret"
"""The program whose commands make another form."""


@dataclass(frozen=True)
class Command:
    """Something to type, or to paste into Python."""

    program: str
    does: str
    language: Literal["shell", "python"]
    text: str
    note: str = ""
    """What to know before; a sentence, or nothing."""

    @property
    def title(self) -> str:
        """The program, and what the command has it do."""
        return f"{self.program}: {self.does}"


def commands(shipped: Shipped) -> list[Command]:
    """All that can be done next with a model in this form."""
    return list(_FORMS[shipped.form](shipped))


def on_hub(shipped: Shipped, repository: str, base: str | None) -> list[Command]:
    """Those of the same model once it lies in a repository, for anybody: `base` is the base's name on the hub.

    A bundled base keeps its name; another that is not on the hub is called BASE.
    """
    known = base or (shipped.base if _is_bundled(shipped.base) else _NO_BASE)
    local = ("ollama", "gguf-lora")
    found = [] if shipped.form in local else commands(replace(shipped, place=repository, base=known))
    return [command for command in found if command.program != OWN]


def rendered(found: Sequence[Command]) -> str:
    """The same for a terminal: titles and notes are comments of both languages, so that all can be pasted."""
    blocks = []
    for command in found:
        python = " (Python)" if command.language == "python" else ""
        note = f"# {command.note}\n" if command.note else ""
        blocks.append(f"# {command.title}{python}\n{note}{command.text}")
    return "\n\n".join(blocks)


def _peft(shipped: Shipped) -> Iterator[Command]:
    yield Command("PEFT", "load the adapter and ask", "python", _python_peft(shipped))
    yield Command("transformers", "the same without PEFT's classes", "python", _python_adapter(shipped))
    if shipped.unembedding:
        note = "TRL's SFTTrainer refuses an adapter on the unembedding (1.16): go on from the merged model."
        yield Command(OWN, "make what TRL takes", "shell", _ship(shipped, "merged"), note)
    else:
        yield Command("TRL", f"go on training, on {MORE_ROWS}", "python", _python_more(shipped))
    yield from _vllm_adapter(shipped)
    for form, what in (("gguf", "llama.cpp"), ("ollama", "Ollama")):
        yield Command(OWN, f"make what {what} takes", "shell", _ship(shipped, form))


def _merged(shipped: Shipped) -> Iterator[Command]:
    yield Command("transformers", "load the model and ask", "python", _python_whole(shipped))
    yield Command("TRL", f"go on training, on {MORE_ROWS}", "python", _python_more(shipped))
    line = f"vllm serve {_path(shipped.place)} --served-model-name {shipped.name}"
    yield Command("vLLM", "serve the model", "shell", line)
    yield Command("vLLM", "ask the server", "shell", _ask(shipped, VLLM_PORT))


def _gguf(shipped: Shipped) -> Iterator[Command]:
    if not shipped.place.endswith(".gguf"):
        yield from _llama(shipped, f"-hf {_path(shipped.place)}", "")
        yield Command("Ollama", "fetch and ask", "shell", f"ollama run hf.co/{_path(shipped.place)}")
        return
    yield from _llama(shipped, f"-m {_path(shipped.place)}", "")
    yield Command("transformers", "load the file, dequantised, and ask", "python", _python_whole(shipped))


def _gguf_lora(shipped: Shipped) -> Iterator[Command]:
    base = shipped.base if shipped.base and shipped.base.endswith(".gguf") else f"{_NO_BASE}.gguf"
    note = "" if base == shipped.base else f"{base} is the adapter's base as a GGUF file."
    yield from _llama(shipped, f"-m {_path(base)} --lora {_path(shipped.place)}", note)


def _ollama(shipped: Shipped) -> Iterator[Command]:
    name, file = shipped.name.lower(), str(Path(shipped.place, MODELFILE))
    prompt = shlex.quote(_GREETING if shipped.chats else _BEGINNING)
    yield Command("Ollama", "take the model in", "shell", f"ollama create {name} -f {_path(file)}")
    yield Command("Ollama", "ask", "shell", f"ollama run {name} {prompt}")


_FORMS = {"peft": _peft, "merged": _merged, "gguf": _gguf, "gguf-lora": _gguf_lora, "ollama": _ollama}


def _llama(shipped: Shipped, model: str, note: str) -> Iterator[Command]:
    template = " --jinja" if shipped.chats else ""
    served = f"llama-server {model} --alias {shipped.name}{template}"
    yield Command("llama.cpp", "serve the model", "shell", served, note)
    yield Command("llama.cpp", "ask the server", "shell", _ask(shipped, LLAMA_PORT))
    if shipped.chats:
        stops = "".join(f" -r {shlex.quote(text)}" for text in shipped.stop_texts)
        yield Command("llama.cpp", "chat without a server", "shell", f"llama-cli {model}{template}{stops}", note)


def _vllm_adapter(shipped: Shipped) -> Iterator[Command]:
    """Serve an adapter; merged where vLLM does not take it."""
    room = next((rank for rank in VLLM_RANKS if rank >= shipped.rank), None)
    refused = "DoRA" if shipped.dora else f"a rank above {VLLM_RANKS[-1]}" if room is None else ""
    if (shipped.base or "").endswith(".gguf"):
        refused = "an adapter on a GGUF file"
    if refused:
        note = f"vLLM does not take {refused}: merge the adapter into its base."
        yield Command(OWN, "make what vLLM takes", "shell", _ship(shipped, "merged"), note)
        return
    notes = []
    if shipped.unembedding:
        notes.append("vLLM takes an adapter on the unembedding for some families only: where it refuses, merge.")
    if shipped.experts:
        notes.append("Of most mixtures vLLM wants a LoRA for each expert: lowregret export --each-expert.")
    line = f"vllm serve {_shell_base(shipped)} --enable-lora --max-lora-rank {room}"
    line += f" --lora-modules {shlex.quote(f'{shipped.name}={_plain(shipped.place)}')}"
    line += f" --generation-config {_path(shipped.place)}" if shipped.generation else ""
    yield Command("vLLM", "serve base and adapter", "shell", line, " ".join(notes))
    yield Command("vLLM", "ask the server", "shell", _ask(shipped, VLLM_PORT))


def _ship(shipped: Shipped, form: str) -> str:
    return f"lowregret ship {_path(shipped.place)} --to {form}"


def _ask(shipped: Shipped, port: int) -> str:
    """A request in OpenAI's form."""
    asked = {"messages": [{"role": "user", "content": _GREETING}]} if shipped.chats else {"prompt": _BEGINNING}
    body = {"model": shipped.name, **asked, "max_tokens": TOKENS}
    if shipped.stop_texts:
        body["stop"] = list(shipped.stop_texts)
    where = "chat/completions" if shipped.chats else "completions"
    return (
        f"curl http://localhost:{port}/v1/{where} -H 'Content-Type: application/json' -d {shlex.quote(to_json(body))}"
    )


def _python_peft(shipped: Shipped) -> str:
    return "\n".join(
        (
            "from peft import PeftModel",
            _imports(shipped),
            "",
            *_where(shipped),
            f"tokenizer = AutoTokenizer.from_pretrained({_tokenizer(shipped)})",
            f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({_from(shipped)}), adapter)",
            *_reply(shipped, "adapter"),
        )
    )


def _python_adapter(shipped: Shipped) -> str:
    return "\n".join(
        (
            _imports(shipped),
            "",
            *_where(shipped),
            f"tokenizer = AutoTokenizer.from_pretrained({_tokenizer(shipped)})",
            f"model = AutoModelForCausalLM.from_pretrained({_from(shipped)})",
            "model.load_adapter(adapter)",
            *_reply(shipped, "adapter"),
        )
    )


def _python_whole(shipped: Shipped) -> str:
    place = Path(shipped.place)
    asked = f"{str(place.parent)!r}, gguf_file={place.name!r}" if shipped.form == "gguf" else repr(shipped.place)
    return "\n".join(
        (
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({asked})",
            f"model = AutoModelForCausalLM.from_pretrained({asked})",
            *_reply(shipped, ""),
        )
    )


def _python_more(shipped: Shipped) -> str:
    """One pass over new rows, with the rate and the batch that the model was trained with where they are known.

    TRL's own default of bf16 is an error on a CPU.
    """
    adapter = shipped.form == "peft"
    told = {"learning_rate": shipped.learning_rate, "per_device_train_batch_size": shipped.batch_size}
    known = "".join(f", {key}={value!r}" for key, value in told.items() if value is not None)
    place = f"{shipped.name}-more"
    tokenizer = _tokenizer(shipped) if adapter else repr(shipped.place)
    if adapter:
        base = f"AutoModelForCausalLM.from_pretrained({_from(shipped)})"
        lines = ["from datasets import load_dataset", "from peft import PeftModel", _imports(shipped, bare=True)]
        load = [*_where(shipped), f"model = PeftModel.from_pretrained({base}, adapter, is_trainable=True)"]
    else:
        lines = ["from datasets import load_dataset", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
        load = [f"model = AutoModelForCausalLM.from_pretrained({shipped.place!r})"]
    return "\n".join(
        (
            "import torch",
            *lines,
            "from trl import SFTConfig, SFTTrainer",
            "",
            *load,
            f"rows = load_dataset('json', data_files={MORE_ROWS!r}, split='train')",
            f"settings = SFTConfig({place!r}, num_train_epochs=1, bf16=torch.cuda.is_available(){known})",
            f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
            "trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer)",
            "trainer.train()",
            f"trainer.save_model({place!r})",
        )
    )


def _imports(shipped: Shipped, *, bare: bool = False) -> str:
    names = ["AutoModelForCausalLM", "AutoTokenizer"]
    names += ["GenerationConfig"] if shipped.generation and not bare else []
    own = "from lowregret.models.files import BUNDLED\n" if _is_bundled(shipped.base) else ""
    return f"{own}from transformers import {', '.join(names)}"


def _where(shipped: Shipped) -> list[str]:
    """What the names `base` and `adapter` stand for."""
    base = shipped.base or _NO_BASE
    if _is_bundled(base):
        spelled = f"str(BUNDLED / {base!r})"
    elif base.endswith(".gguf"):
        spelled = repr(str(Path(base).parent))
    else:
        spelled = repr(base)
    return [f"base = {spelled}", f"adapter = {shipped.place!r}"]


def _from(shipped: Shipped) -> str:
    base = shipped.base or ""
    return f"base, gguf_file={Path(base).name!r}" if base.endswith(".gguf") else "base"


def _tokenizer(shipped: Shipped) -> str:
    return "adapter" if shipped.tokenizer else _from(shipped)


def _reply(shipped: Shipped, settings: str) -> list[str]:
    """Ask and print; `settings` is the name of the folder whose generation_config.json counts, where it is not that of
    the model itself."""
    if shipped.chats:
        turns = [{"role": "user", "content": _GREETING}]
        asked = f"tokenizer.apply_chat_template({turns}, add_generation_prompt=True, "
        asked += "return_dict=True, return_tensors='pt')"
    else:
        asked = f"tokenizer({_BEGINNING!r}, return_tensors='pt')"
    options = f"max_new_tokens={TOKENS}"
    if settings and shipped.generation:
        options += f", generation_config=GenerationConfig.from_pretrained({settings})"
    if shipped.stop_texts:
        options += f", stop_strings={list(shipped.stop_texts)!r}, tokenizer=tokenizer"
    return [
        f"asked = {asked}",
        f"output = model.generate(input_ids=asked['input_ids'], attention_mask=asked['attention_mask'], {options})",
        "print(tokenizer.decode(output[0, asked['input_ids'].shape[1] :], skip_special_tokens=True))",
    ]


def _is_bundled(base: str | None) -> bool:
    """Whether it is a base that comes with the package, which no other program knows by its name."""
    if not base or "/" in base or Path(base).exists():
        return False
    return files("lowregret").joinpath("models", "bundled", base, "config.json").is_file()


def _shell_base(shipped: Shipped) -> str:
    base = shipped.base or _NO_BASE
    if not _is_bundled(base):
        return _path(base)
    program = f'from lowregret.models.files import BUNDLED; print(BUNDLED / "{base}")'
    return f'"$(python -c {shlex.quote(program)})"'


def _plain(path: str) -> str:
    """A path that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _path(path: str) -> str:
    return shlex.quote(_plain(path))
