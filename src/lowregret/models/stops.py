"""Where a base's completions end: the chat template's end of turn, the tokenizer's EOS, generation_config.json's."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from lowregret import limits
from lowregret.data.chat.ending import Ending
from lowregret.data.chat.template import chat_format
from lowregret.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lowregret.models.load import Base


_FILE = "generation_config.json"


@dataclass(frozen=True)
class Stops:
    """What ends a completion of a base, when it is sampled here and when it is served."""

    ids: tuple[int, ...]
    """Tokens: those of generation_config.json first, in its order."""
    texts: tuple[str, ...]
    """Plain text, of a chat template that ends turns by no token."""
    missing: tuple[int, ...]
    """Those of `ids` that the base's own generation_config.json does not name: a server goes on past them."""
    names: tuple[str, ...]
    """The tokens of `ids` as the tokenizer spells them."""
    ending: Ending
    chats: bool
    """Whether the tokenizer has a chat template."""

    def lines(self, asked: tuple[str, ...] = ()) -> list[str]:
        """What to say where sampling begins; `asked` are the stop texts that the user has named."""
        ends = [*self.names, *map(repr, (*self.texts, *asked))]
        if not ends:
            return [
                "nothing ends a completion: the tokenizer has no EOS, and neither the chat template nor "
                "generation_config.json names an end of turn. Each runs to --max-tokens unless --stop names a text"
            ]
        where = " or ".join(ends)
        if self.ending.token is not None:
            return [f"completions end at {where}"] if self.missing else []
        if self.ending.stop:
            return [f"the chat template ends a turn by no token but by text: completions end at {where}"]
        if self.chats and not asked:
            return [
                f"the chat template ends a turn by nothing: completions end at {where} where the base writes it of "
                "itself, else at --max-tokens. --stop names a text that ends one"
            ]
        return []

    def serving_lines(self, folder: Path) -> list[str]:
        """What to know to serve an adapter in `folder` on its base, whose own files stay as they are."""
        found = []
        if self.missing:
            new = " and ".join(name for name, end in zip(self.names, self.ids, strict=True) if end in self.missing)
            found.append(
                f"serving: the base's generation_config.json does not name {new}, at which completions end; the one in "
                f"{folder} does (vllm serve BASE --generation-config {folder})"
            )
        if self.texts:
            texts = " or ".join(map(repr, self.texts))
            found.append(f"serving: no token ends a turn, the text {texts} does: name it as a stop text")
        return found


def stops(base: Base) -> Stops:
    """Ask a base's tokenizer, chat template and generation configuration."""
    return stops_of(base.tokenizer, getattr(base.model, "generation_config", None), base.source.asked)


def stops_of(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None, name: str) -> Stops:
    """The same of a base that is not loaded; messages call it `name`."""
    form = chat_format(tokenizer)
    configured = _configured(generation, name)
    wanted = (form.ending.token, form.eos_id)
    ids = tuple(dict.fromkeys([*configured, *(end for end in wanted if end is not None)]))
    return Stops(
        ids=ids,
        texts=(form.ending.stop,) if form.ending.stop else (),
        missing=tuple(end for end in ids if end not in configured),
        names=tuple(str(tokenizer.convert_ids_to_tokens(end)) for end in ids),
        ending=form.ending,
        chats=form.template is not None,
    )


def write_stops(base: Base, folder: Path) -> None:
    """Write the base's generation_config.json to `folder`, with all tokens that end a completion.

    transformers' `generate` and vLLM stop at any of its `eos_token_id`. A stop text has no place there that both read.
    """
    own = getattr(base.model, "generation_config", None)
    config = GenerationConfig() if own is None else deepcopy(own)
    found = stops(base)
    if found.missing:
        config.eos_token_id = list(found.ids) if len(found.ids) > 1 else found.ids[0]
    config.to_json_file(folder / _FILE)


def _configured(generation: GenerationConfig | None, name: str) -> list[int]:
    """`eos_token_id` of the generation configuration: none, one or several. ModelError when one is no token."""
    found = getattr(generation, "eos_token_id", None)
    ends = [end for end in (found if isinstance(found, list | tuple) else [found]) if end is not None]
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < limits.COUNT:
            raise ModelError(
                f"{name}: {_FILE} says eos_token_id {found!s:.80}, and {end!s:.40} is no token. "
                "Fetch the file again, or correct it."
            )
    return ends
