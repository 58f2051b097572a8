"""Four verbs on one base and any number of policies: everything that trains or samples goes through them.

>>> engine = Engine(load_base(resolve("tiny")))
>>> engine.add_policy("a", LoRA(rank=16))
>>> engine.forward_backward({"a": batch})          # gradients add up per policy …
>>> engine.optim_step({"a": AdamParams(2e-4)})     # … until the step
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lowregret.data.batches import EVAL_TOKENS, Batch, collate, eval_groups
from lowregret.data.chat import Example
from lowregret.engine.losses import Loss, cross_entropy, token_logprobs
from lowregret.engine.optimizer import AdamParams
from lowregret.engine.policy import FullPolicy, LoRAPolicy, Policy
from lowregret.engine.sampler import Completion, SamplingParams, generate
from lowregret.errors import SpecError
from lowregret.lora.linear import Routing
from lowregret.models.load import Base
from lowregret.models.targets import find_targets, matrices
from lowregret.spec import FullFT, LoRA


@dataclass(frozen=True)
class PassResult:
    """What one policy got out of a pass."""

    loss: Tensor
    """A scalar on the engine's device: reading it waits for the pass."""
    logprobs: Tensor
    """log p(target) of each supervised position, row by row, nats: [supervised positions]."""
    supervised: Tensor
    """Which positions those are: bool [rows, length], on the CPU like the batch."""


class Engine:
    """One base in memory once, and the policies on it.

    LoRA policies share the frozen base and may be passed together; a FullFT policy trains the base itself and must be
    alone. `device` and `precision` as in TrainingSpec. With bfloat16 the weight matrices of the base are bfloat16 and
    products are (autocast); embeddings, norms and all that trains stay float32, so that LoRA and FullFT start from
    the same function, to the bit.
    """

    def __init__(self, base: Base, *, device: str = "auto", precision: str = "auto") -> None:
        self.base = base
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.model: PreTrainedModel = base.model
        self.model.requires_grad_(False)
        _cast(self.model, self.dtype)
        self.model.to(self.device)  # type: ignore[arg-type]
        self.policies: dict[str, Policy] = {}
        self._routing = Routing()
        self._selected: Tensor | None = None
        self.matrices = matrices(self.model)
        self._head_hook = self._watch_head()

    def add_policy(self, name: str, method: FullFT | LoRA, seed: int = 0) -> Policy:
        """Put a new policy on the base; `seed` draws the initial A of a LoRA."""
        if name in self.policies:
            raise SpecError(f"there is a policy named {name!r} already.")
        if any(isinstance(policy, FullPolicy) for policy in self.policies.values()) or (
            isinstance(method, FullFT) and self.policies
        ):
            raise SpecError("a FullFT policy changes the base under all others: it must be the engine's only policy.")
        policy: Policy
        if isinstance(method, LoRA):
            targeted = find_targets(self.model, self.matrices, method.targets)
            policy = LoRAPolicy(name, method, targeted, seed, self.model, self._routing)
        else:
            policy = FullPolicy(name, method, self.model)
        self.policies[name] = policy
        self._head_hook = self._watch_head()
        return policy

    def remove_policy(self, name: str) -> None:
        """Take a policy off. What a FullFT policy did to the base stays done."""
        self.policies.pop(name).detach()
        self._head_hook = self._watch_head()

    def forward_backward(self, batches: Mapping[str, Batch], loss: Loss = cross_entropy) -> dict[str, PassResult]:
        """One forward and backward pass for all the policies named; gradients add up until `optim_step`."""
        with torch.enable_grad():
            results = self._forward(batches, loss)
            torch.stack([result.loss for result in results.values()]).sum().backward()  # type: ignore[no-untyped-call]
        return {
            name: PassResult(result.loss.detach(), result.logprobs.detach(), result.supervised)
            for name, result in results.items()
        }

    @torch.no_grad()
    def forward(self, batches: Mapping[str, Batch]) -> dict[str, PassResult]:
        """The same pass without gradients. A name that is no policy, such as `base`, is answered by the bare base."""
        return self._forward(batches, cross_entropy)

    def optim_step(self, params: Mapping[str, AdamParams]) -> dict[str, float]:
        """One AdamW step for each policy named; returns gradient norms before clipping. Others are not touched."""
        return {name: self.policies[name].optimizer.step(step) for name, step in params.items()}

    def evaluate(self, policy: str, examples: Sequence[Example]) -> tuple[list[float], list[int]]:
        """Summed nats and supervised tokens of every example, in order. Batches are fixed by the lengths alone."""
        nll, tokens = [0.0] * len(examples), [0] * len(examples)
        for group in eval_groups([len(example.token_ids) for example in examples], EVAL_TOKENS):
            batch = collate([examples[index] for index in group], self.base.pad_id)
            result = self.forward({policy: batch})[policy]
            per_row = torch.zeros(batch.supervised.shape, dtype=torch.float64)
            per_row[batch.supervised] = -result.logprobs.cpu().double()
            for index, total, count in zip(
                group, per_row.sum(1).tolist(), batch.supervised.sum(1).tolist(), strict=True
            ):
                nll[index], tokens[index] = total, int(count)
        return nll, tokens

    def sample(
        self, prompts: Mapping[str, Sequence[Sequence[int]]], params: SamplingParams
    ) -> dict[str, list[Completion]]:
        """One completion for each prompt (token ids) of each policy, all in one batch."""
        rows = [prompt for group in prompts.values() for prompt in group]
        counts = {name: len(group) for name, group in prompts.items()}
        with self._passing(counts, counts, None), self._arithmetic():
            completions = generate(self.model, rows, params, self.base.pad_id, self._last_logits)
        found: dict[str, list[Completion]] = {}
        for name, count in counts.items():
            found[name], completions = completions[:count], completions[count:]
        return found

    def save(self, policy: str, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Weights and optimizer state of a policy, atomically, as one safetensors file."""
        from lowregret.engine.state import save_state

        save_state(self.policies[policy], path, metadata or {})

    def load(self, policy: str, path: Path) -> dict[str, str]:
        """Restore what `save` wrote, and return its metadata; RecordsError when the file is damaged or another's."""
        from lowregret.engine.state import load_state

        return load_state(self.policies[policy], path)

    def _forward(self, batches: Mapping[str, Batch], loss: Loss) -> dict[str, PassResult]:
        merged = _merge(list(batches.values()), self.base.pad_id)
        positions = {name: int(batch.supervised.sum()) for name, batch in batches.items()}
        # Indices are found on the CPU, where the batch was built: on a GPU finding them would wait for the device.
        selected = merged.supervised.flatten().nonzero()[:, 0].to(self.device)
        ids = merged.input_ids.to(self.device)
        targets = merged.targets[merged.supervised].to(self.device)
        weights = merged.weights[merged.supervised].to(self.device)
        self._routing.length = merged.input_ids.shape[1]
        # Right padding lies behind every supervised position, which causal attention never sees: no mask is needed.
        with self._passing({n: b.rows for n, b in batches.items()}, positions, selected), self._arithmetic():
            logits = self.model(input_ids=ids, use_cache=False).logits
        logits = logits.reshape(-1, logits.shape[-1])
        if logits.shape[0] != targets.shape[0]:  # a base that reads its unembedding's weight without calling it
            logits = logits[selected]
        logprobs = token_logprobs(logits, targets)
        results: dict[str, PassResult] = {}
        position = 0
        for name, batch in batches.items():
            part = slice(position, position + positions[name])
            results[name] = PassResult(loss(logprobs[part], weights[part]), logprobs[part], batch.supervised)
            position = part.stop
        return results

    def _last_logits(self, **inputs: Any) -> Tensor:
        rows, length = inputs["input_ids"].shape
        self._selected = torch.arange(1, rows + 1, device=self.device) * length - 1
        self._routing.length = length
        logits: Tensor = self.model(**inputs).logits
        return logits.reshape(rows, -1, logits.shape[-1])[:, -1]

    @contextmanager
    def _passing(
        self, rows: Mapping[str, int], positions: Mapping[str, int], selected: Tensor | None
    ) -> Iterator[None]:
        """Route rows and positions to their policies for one pass, and only for it."""
        self._routing.rows, self._routing.positions = _segments(rows), _segments(positions)
        self._selected = selected
        try:
            yield
        finally:
            self._routing.rows, self._routing.positions, self._selected = [], [], None

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def _watch_head(self) -> RemovableHandle:
        """Hook the unembedding as it is now: adapters on it wrap it, and their rows are selected too."""
        if hasattr(self, "_head_hook"):
            self._head_hook.remove()
        head: torch.nn.Module = self.model.get_output_embeddings()
        return head.register_forward_pre_hook(self._keep_selected)

    def _keep_selected(self, head: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before the unembedding: only selected positions get logits, [rows, length, d] → [positions, d].

        A hook rather than a call of our own, so that whatever the model does to its logits afterwards is still done.
        """
        if self._selected is None:
            return None
        return (inputs[0].flatten(0, -2).index_select(0, self._selected), *inputs[1:])


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weight matrices to `dtype`; vectors and embeddings (and a matrix shared with one) to float32.

    A float64 base, which only a caller can have made, stays as it is.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype is not torch.float64:
            matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
            parameter.data = parameter.data.to(dtype if matrix else torch.float32)


def _segments(counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    found, start = [], 0
    for name, count in counts.items():
        found.append((name, start, start + count))
        start += count
    return found


def _merge(batches: Sequence[Batch], pad_id: int) -> Batch:
    """The rows of all batches under each other, padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)

    def stacked(name: str, fill: int) -> Tensor:
        tensors = [getattr(batch, name) for batch in batches]
        return torch.cat([torch.nn.functional.pad(t, (0, length - t.shape[1]), value=fill) for t in tensors])

    return Batch(
        stacked("input_ids", pad_id), stacked("targets", pad_id), stacked("supervised", 0), stacked("weights", 0)
    )


def choose_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; SpecError for a device that torch does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(
            f"device {device!r} is not available: {str(error).splitlines()[0]}. Use auto, cpu or cuda:N."
        ) from None
    return chosen


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU and bfloat16 elsewhere."""
    if precision == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
