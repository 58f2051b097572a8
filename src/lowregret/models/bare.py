"""A base without its weights: names, shapes and settings, for what is done file by file."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from lowregret.models.files import folder_of
from lowregret.models.load import Base, Source, explaining, load_config, load_tokenizer, quiet, without_lost_padding
from lowregret.models.sizes import check_folder_build


def bare_model(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model that transformers builds for a folder, on the device `meta`, where nothing takes memory.

    `dtype` is the weights'; None for the one that the configuration says.
    """
    config = load_config(source)
    with explaining(source), quiet():
        without_lost_padding(config)
        check_folder_build(config, _folder(source), source.asked)
        return _built(config, dtype)


def _folder(source: Source) -> Path:
    """Where its files are; of a hub id, the snapshot in the local cache."""
    return folder_of(source.path) or Path(source.path)


def untied(model: PreTrainedModel) -> PreTrainedModel:
    """The same with an unembedding of its own, if its code can be told so by its configuration."""
    config = deepcopy(model.config)
    for part in (config, config.get_text_config(decoder=True)):
        part.tie_word_embeddings = False
    return _built(config)


def _built(config: PretrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    typed = {} if dtype is None else {"dtype": dtype}
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(config), trust_remote_code=False, **typed)
    return model


def bare_base(source: Source, dtype: torch.dtype | None = None) -> Base:
    """The same with its tokenizer and the folder's generation_config.json: what `models.stops` asks."""
    model, tokenizer = bare_model(source, dtype), load_tokenizer(source)
    if (_folder(source) / "generation_config.json").is_file():
        with explaining(source), quiet():
            model.generation_config = GenerationConfig.from_pretrained(source.path)
    return Base(model, tokenizer, source)
