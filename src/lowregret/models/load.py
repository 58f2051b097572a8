"""A base from a Hugging Face folder, a hub id, a .gguf file or a bundled name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lowregret.errors import ModelError, did_you_mean
from lowregret.foreign import boundary, real_path, reason, require_file
from lowregret.models.files import BUNDLED, bundled_names, is_bundled
from lowregret.models.folder import check_folder, check_sizes, read_config
from lowregret.models.four_bit import adopt, bitsandbytes
from lowregret.models.gguf.fields import set_fields
from lowregret.models.gguf.header import read_header
from lowregret.models.gguf.tensors import check_stored, check_used, factors_of, one_file
from lowregret.models.quantised import in_nf4, refuse_quantised
from lowregret.models.sizes import check_folder_build, check_gguf_build
from lowregret.spec.method import Quantisation

_REMEDY = "Fetch its files again, or give another base."
gguf_reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Source:
    """Where a base comes from, resolved once, so that it can be loaded again identically."""

    asked: str
    """What the user wrote."""
    path: str
    """A folder, or a hub id."""
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that every `from_pretrained` takes."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


@dataclass(frozen=True)
class Base:
    """A pretrained model, its tokenizer, and its source."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Source
    quantisation: Quantisation = "none"
    """Of its layers' matrices, once an engine holds it; of files that are in four bits, of these."""

    def quantised(self, wanted: Quantisation) -> Base:
        """The same for an engine that holds it so; ModelError where its files are quantised, and it was not asked for
        so."""
        if self.quantisation not in ("none", wanted):
            raise ModelError(
                f"{self.source.asked}: its files are in {self.quantisation}, and the base as it is was asked for. Use "
                f"a method such as lora:16:{self.quantisation} (of eval: --quantisation {self.quantisation}), or give "
                "the original, in bfloat16 or float32, that it was made from."
            )
        return replace(self, quantisation=wanted)

    @property
    def pad_id(self) -> int:
        """A token id to fill rows with; what it is does not matter, padding is never attended to nor supervised.

        The tokenizer's own may be one for which the embedding has no row.
        """
        pad = self.tokenizer.pad_token_id
        embedding: Any = self.model.get_input_embeddings()
        rows = embedding.weight.shape[0]
        return int(pad) if pad is not None and 0 <= pad < rows else 0


def resolve(asked: str) -> Source:
    """Find what a `--model` names; ModelError says what was looked for and where."""
    path = Path(asked)
    if is_bundled(asked):
        return Source(asked, str(BUNDLED / asked))
    if path.suffix == ".gguf":
        require_file(path, ModelError)
        if not path.exists():
            raise ModelError(f"{asked}: no such file. Give the path of an existing .gguf file.")
        check_stored(read_header(path, asked))  # before anything is read of it
        return Source(asked, str(path.parent), path.name)
    if path.is_dir():
        check_folder(path)
        refuse_quantised(read_config(path, asked), asked, path, but_nf4=True)
        return Source(asked, str(path))
    if path.exists():
        raise ModelError(f"{asked}: is a file. Give a Hugging Face folder, a hub id, a .gguf file or a bundled base.")
    if asked.count("/") > 1 or asked.startswith((".", "/", "~")):
        raise ModelError(f"{asked}: no such folder. Give an existing one, a .gguf file, a hub id or a bundled base.")
    return Source(asked, asked)


def load_config(source: Source) -> PretrainedConfig:
    """The base's configuration, without its weights."""
    with explaining(source), quiet():
        config: PretrainedConfig = AutoConfig.from_pretrained(source.path, trust_remote_code=False, **source.arguments)
        if source.gguf_file is not None:
            header = read_header(Path(source.path) / source.gguf_file, source.asked)
            names = {tensor.name for tensor in header.tensors}
            set_fields(config, header.architecture, header.parts[0].metadata, names, factors_of(header), source.asked)
            check_sizes(config.to_dict(), source.asked)
            return config
        values = config.to_dict()
    check_sizes(values, source.asked)
    refuse_quantised(values, source.asked, but_nf4=True)
    return config


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The base's tokenizer, without its weights; it has been tried on a letter, for some damage shows only then."""
    with explaining(source), quiet():
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False, **source.arguments)
        if not tokenizer.is_fast:
            raise ModelError(f"{source.asked}: its tokenizer has no fast version, which the loss mask needs.")
        tokenizer.decode(tokenizer("a")["input_ids"])
    return tokenizer


def load_base(source: Source, dtype: torch.dtype = torch.float32) -> Base:
    """Load weights and tokenizer. The model is in eval mode: dropout is off in training too, for both methods alike."""
    tokenizer = load_tokenizer(source)
    model, found = _load_gguf(source, dtype) if source.gguf_file else _load_folder(source, dtype)
    check_loaded(source, model, found)
    model.eval()
    if not adopt(model):
        return Base(model, tokenizer, source)
    _forget_quantisation(model)
    return Base(model, tokenizer, source, "nf4")


def check_loaded(source: Source, model: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """ModelError when transformers' account of a loading says that weights are missing, which would stay random, or do
    not have their shapes; or when the model is no decoder."""
    if found["mismatched_keys"]:
        mismatched = sorted(found["mismatched_keys"], key=lambda entry: str(entry[0]))
        name, there, here = mismatched[0]
        raise ModelError(
            f"{source.asked}: {name} is {tuple(there)} in the files, and {tuple(here)} by the configuration "
            f"({len(mismatched)} weights do not fit): the two are not of one model, or transformers reads this "
            "configuration wrong. Fetch both again, or give the Hugging Face folder of this model."
        )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"{source.asked}: the files hold no {missing[0]} ({len(missing)} of its weights are missing): it is "
            "no causal language model, or a broken download. Fetch it again, or give another base."
        )
    if model.config.is_encoder_decoder:
        raise ModelError(f"{source.asked}: is an encoder-decoder model; only decoder-only causal models work here.")


def _load(source: Source, path: str, dtype: torch.dtype, **arguments: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and transformers' account of the loading."""
    with explaining(source), quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            trust_remote_code=False,
            weights_only=True,  # a .bin file is a pickle, which could run anything
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused here, by name
            **arguments,
        )
    model, found = loaded
    return model, found


def _load_folder(source: Source, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    config = load_config(source)
    if in_nf4(config.to_dict()):
        bitsandbytes()
    with explaining(source), quiet():
        changed = without_lost_padding(config)
        if Path(source.path).is_dir():
            check_folder_build(config, Path(source.path), source.asked)
    return _load(source, source.path, dtype, **({"config": config} if changed else {}))


def _load_gguf(source: Source, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Of a .gguf file, its parts joined; ModelError when a tensor of it would be left out."""
    config = load_config(source)
    header = read_header(Path(source.path) / str(source.gguf_file), source.asked)
    with explaining(source), quiet():
        without_lost_padding(config)
        check_gguf_build(config, header)
    with one_file(header) as file:
        whole = str(real_path(file))  # of a bare name transformers would take a file in the working directory
        model, found = _load(source, str(file.parent), dtype, config=config, gguf_file=whole)
    if not found["missing_keys"]:
        check_used(header, model, found["unexpected_keys"])
    _forget_quantisation(model)
    return model, found


def without_lost_padding(config: PretrainedConfig) -> bool:
    """Take out a padding token for which the embedding has no row, which torch refuses; whether there was one."""
    text = config.get_text_config(decoder=True)
    pad, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if pad is None or rows is None or pad < rows:
        return False
    text.pad_token_id = None
    return True


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Of a GGUF file the weights are dequantised now, and what is in four bits is ours: nothing that is saved must
    claim to be quantised."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for attribute in ("is_quantized", "hf_quantizer", "quantization_method"):
        if hasattr(model, attribute):
            setattr(model, attribute, False if attribute == "is_quantized" else None)


class quiet:
    """Silence transformers' progress bars and advice: a user of lowregret can act on neither."""

    def __enter__(self) -> None:
        self._verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._tqdm = os.environ.get("TQDM_DISABLE")
        os.environ["TQDM_DISABLE"] = "1"
        self._bar, gguf_reader.tqdm = gguf_reader.tqdm, lambda items, **_: items

    def __exit__(self, *_: object) -> None:
        transformers.logging.set_verbosity(self._verbosity)
        transformers.logging.enable_progress_bar()
        gguf_reader.tqdm = self._bar
        if self._tqdm is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = self._tqdm


@contextmanager
def explaining(source: Source) -> Iterator[None]:
    """Turn whatever transformers raises into a ModelError that says what to do."""
    try:
        with boundary(ModelError, source.asked, "cannot be loaded", _REMEDY):
            yield
    except ModelError as error:
        cause = error.__cause__
        if cause is None:
            raise
        first, asked = reason(cause), source.asked
        if isinstance(cause, UnpicklingError):
            raise ModelError(
                f"{asked}: a .bin file of it holds more than weights, or is damaged, and nothing of it was run. Give "
                "the base as safetensors: load it where you trust it and save it anew by save_pretrained."
            ) from cause
        if "above report" in first:  # which `quiet` silences
            first = "transformers cannot turn its weights into those of its own class; give another file or release"
        elif "architecture" in first and source.gguf_file:
            first = f"{first}. Give the Hugging Face folder of this model"
        if Path(source.path).is_dir() or not isinstance(cause, OSError):
            raise ModelError(f"{asked}: cannot be loaded: {first}. {_REMEDY}") from cause
        raise ModelError(
            f"{asked}: is no folder, no .gguf file and no bundled base, and as a hub id it is not in the local cache "
            f"and could not be fetched ({first[:200]}). Download it first, or give a folder. "
            f"{did_you_mean(asked, bundled_names())}"
        ) from cause
