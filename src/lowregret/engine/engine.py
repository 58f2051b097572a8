"""Four verbs on one base and any number of policies: everything that trains or samples goes through them.

>>> engine = Engine(load_base(resolve("tiny")))
>>> engine.add_policy("a", LoRA(rank=16))
>>> engine.forward_backward({"a": batch})          # gradients add up per policy …
>>> engine.optim_step({"a": AdamParams(2e-4)})     # … until the step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.data.batches import Batch
from lowregret.data.example import Example
from lowregret.engine.device import arithmetic, choose_device, choose_dtype
from lowregret.engine.forward.attention import configurations, patched_attention, supports_varlen
from lowregret.engine.forward.balance import BalanceLoss, require_one_device
from lowregret.engine.forward.checkpointing import checkpoint_layers
from lowregret.engine.forward.layout import PassLayout, lay_out
from lowregret.engine.forward.offload import offloaded
from lowregret.engine.forward.path import ForwardPath, probe, select_forward_path
from lowregret.engine.forward.positions import RowPositions
from lowregret.engine.forward.unembedding import Unembedding
from lowregret.engine.full import FullPolicy
from lowregret.engine.held_out import sums_of
from lowregret.engine.losses import Losses, cross_entropy, loss_of
from lowregret.engine.optim.optimizer import StepParams
from lowregret.engine.parallel.fsdp import in_parts, reshard
from lowregret.engine.parallel.lead import together
from lowregret.engine.parallel.lockstep import Lockstep
from lowregret.engine.parallel.mesh import ALONE, R, Ranks
from lowregret.engine.parallel.rows import Dealing, one_by_one, over_ranks
from lowregret.engine.placing import place, require_base
from lowregret.engine.policy import LoRAPolicy, Policy
from lowregret.engine.result import PassResult
from lowregret.engine.sampling.batcher import Batcher, generate
from lowregret.engine.sampling.choose import SamplingPath, choose_sampling
from lowregret.engine.sampling.decode import LogitsFn
from lowregret.engine.sampling.draw import Completion, SamplingParams, uniforms
from lowregret.engine.sampling.prefixes import Prefixes
from lowregret.engine.sampling.ranks import completed
from lowregret.engine.sampling.stream import Listener, OnToken, stream
from lowregret.engine.slots import PolicySlots
from lowregret.engine.state import load_state, save_states
from lowregret.errors import ModelError, SpecError
from lowregret.lora.bank import AdapterLayout
from lowregret.lora.kernels import kernels_for
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotSpan, cast_once
from lowregret.models.load import Base
from lowregret.models.targets import find_targets, matrices
from lowregret.spec import FullFT, LoRA
from lowregret.spec.optimizer import DEFAULT_OPTIMIZER


class Engine:
    """One base in memory once, and the policies on it.

    LoRA policies share the frozen base and may be passed together; a FullFT policy trains the base itself and must be
    alone. `device` and `precision` as in TrainingSpec. With bfloat16 the weight matrices of the base are bfloat16 and
    products are (autocast); embeddings, norms and all that trains stay float32, so that LoRA and FullFT start from
    the same function, to the bit. `checkpoint_activations` computes the layers a second time in the backward pass
    instead of keeping what they computed, which `offload_activations` keeps on the host; ModelError for a base without
    known layers. `balance_experts` adds a mixture's load-balancing loss, as its own code defines it, to what is
    differentiated; losses returned are without it. ModelError for a base without one, or weights that are no numbers.

    `ranks`: the processes that train together. All make every call alike, with whole batches, and get the same answers;
    each computes its own rows, or its own LoRAs where there are enough. A FullFT policy's weights, gradients and
    optimizer state lie in parts, with `base_in_parts` the frozen base of LoRAs too, gathered layer by layer; else it is
    whole, but for what `parallel/tensor.py` and `expert.py` cut. Of a base without weights (`models.bare`) each rank
    reads its part alone; `base_trains`: it will be a FullFT policy's, float32 with the numbers of `precision`.
    SpecError for what is not computed so: the load-balancing loss of a base whose rows are padded.
    """

    def __init__(
        self,
        base: Base,
        *,
        device: str = "auto",
        precision: str = "auto",
        checkpoint_activations: bool = False,
        offload_activations: bool = False,
        balance_experts: bool = False,
        ranks: Ranks = ALONE,
        base_in_parts: bool = False,
        base_trains: bool = False,
    ) -> None:
        self.ranks = ranks
        self.base = base
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.model: PreTrainedModel = base.model
        self.matrices = matrices(self.model)
        self.cuts, exchange = place(base, self.device, self.dtype, ranks, in_parts=base_in_parts, trains=base_trains)
        """What this rank holds of the base."""
        if self.cuts.any:
            self.matrices = self.cuts.here(matrices(self.model))
        self._slots = PolicySlots(kernels_for(self.device, self.dtype))
        self.policies: dict[str, Policy] = self._slots.policies
        self._routing = PolicyRouting(anchor=torch.zeros((), device=self.device, requires_grad=True))
        self._routing.exchange = exchange
        self._routing.add_up |= dict.fromkeys(self.cuts.rowwise, ranks.tensor.add)
        self._configs = configurations(self.model)
        self._unembedding = Unembedding(self.model, self.cuts.vocabulary, self._slots.kernels.chunk_bytes)
        self._balance = BalanceLoss(self.model, self.matrices) if balance_experts else None
        self._positions = RowPositions(self.model)
        self.padding_free = True
        """Whether rows are laid end to end; else they are padded to the longest of a pass."""
        self._sampling_path: SamplingPath | None = None
        self._alone = False
        """Whether each pass holds one row."""
        self.forward_path = self._select_forward_path()
        """What was found when the base was put here, and why a faster path was refused."""
        reshard(self.model)
        if balance_experts and not self.padding_free:
            require_one_device(ranks, self.forward_path.description)
        self.offloads = offload_activations
        if checkpoint_activations:
            checkpoint_layers(self.model)

    @together
    def add_policy(
        self, name: str, method: FullFT | LoRA, seed: int = 0, *, optimizer: str = DEFAULT_OPTIMIZER
    ) -> Policy:
        """Put a new policy on the base; `seed` draws the initial A of a LoRA and its dropout.

        `optimizer` is the kind that will step it where the method names none of its own; SpecError for an unknown one.
        """
        if name in self.policies:
            raise SpecError(f"there is a policy named {name!r} already.")
        require_base(self.base, method)
        if any(isinstance(policy, FullPolicy) for policy in self.policies.values()) or (
            isinstance(method, FullFT) and self.policies
        ):
            raise SpecError("a FullFT policy changes the base under all others: it must be the engine's only policy.")
        policy: Policy
        if isinstance(method, LoRA):
            targeted = find_targets(self.model, self.matrices, method.targets)
            bank = self._slots.bank(AdapterLayout.of(method, targeted))
            policy = LoRAPolicy(name, method, targeted, seed, self.model, bank, self._routing, optimizer, self.cuts)
        else:
            policy = FullPolicy(name, method, self.model, optimizer, self.cuts, self.dtype)
        self.policies[name] = policy
        self._slots.refresh(policy)
        self._unembedding.watch()
        return policy

    @together
    def remove_policy(self, name: str) -> None:
        """Take a policy off. What a FullFT policy did to the base stays done."""
        policy = self.policies.pop(name)
        policy.detach()
        self._slots.refresh(policy)
        self._unembedding.watch()

    @together
    def forward_backward(
        self, batches: Mapping[str, Batch], loss: Losses = cross_entropy, *, temperature: float = 1.0
    ) -> dict[str, PassResult]:
        """One forward and backward pass for all the policies named; gradients add up until `optim_step`.

        `loss`, one for all or each policy's own by its name, gets the batch's `columns` as further arguments;
        `temperature` divides the logits, as in sampling.
        """
        for name in batches:
            self.policies[name].before_backward()

        dealing = self._dealing(batches)

        def run(part: Mapping[str, Batch]) -> dict[str, PassResult]:
            return self._forward_backward(part, loss, temperature, dealing)

        try:
            return over_ranks(self.ranks, batches, one_by_one(run) if self._alone else run, dealing, self._agreed)
        finally:
            reshard(self.model)

    def _forward_backward(
        self, batches: Mapping[str, Batch], loss: Losses, temperature: float, dealing: Dealing
    ) -> dict[str, PassResult]:
        layout, saving = self._lay_out(batches), offloaded(self.model, on=self.offloads)
        watching = self._balance.watching() if self._balance else nullcontext()
        with torch.enable_grad(), self._passing(layout, temperature), watching, saving:
            results = self._forward(layout, batches, loss)
            total = torch.stack([result.loss for result in results.values()]).sum()
            if self._balance:
                ranks = ALONE if dealing.whole else self.ranks
                total = total + self._balance.loss(layout, ranks, dealing.rows(self.ranks.data.rank))
            total.backward()
        return {name: result.detached() for name, result in results.items()}

    @together
    @torch.no_grad()
    def forward(self, batches: Mapping[str, Batch], *, temperature: float = 1.0) -> dict[str, PassResult]:
        """The same pass without gradients. A name that is no policy, such as `base`, is answered by the bare base.

        The loss is the cross-entropy: other columns of the batches do not matter.
        """
        run = partial(self._forward_here, temperature=temperature)
        return over_ranks(self.ranks, batches, run, self._dealing(batches), self._agreed)

    @torch.no_grad()
    def _forward_here(self, batches: Mapping[str, Batch], temperature: float = 1.0) -> dict[str, PassResult]:
        """The same of all rows given, on this rank alone."""

        def run(part: Mapping[str, Batch]) -> dict[str, PassResult]:
            self._lockstep.announce()
            layout = replace(self._lay_out(part), columns=({},) * len(part))
            try:
                with self._passing(layout, temperature):
                    return self._forward(layout, part, cross_entropy)
            finally:
                reshard(self.model)

        return (one_by_one(run) if self._alone else run)(batches)

    @together
    def optim_step(self, params: Mapping[str, StepParams]) -> dict[str, float]:
        """One optimizer step for each policy named; returns gradient norms before clipping. Others are not touched.

        TypeError for hyper-parameters (`AdamParams`, or what `step_params` makes of a spec) of another's optimizer.
        """
        asked = [self.policies[name] for name in params]
        with self.ranks.exchanging():
            for policy in asked:
                policy.gather_gradients()
            norms = [policy.take_step(step) for policy, step in zip(asked, params.values(), strict=True)]
        return dict(zip(params, torch.stack(norms).tolist(), strict=True)) if norms else {}

    def shares(self, policy: str) -> bool:
        """Whether what rows of a prompt (`Batch.prompts`) share is computed once: without dropout, whose masks go by
        rows, without the load-balancing loss, which counts tokens, and without padding."""
        found = self.policies.get(policy)
        dropout = isinstance(found, LoRAPolicy) and found.method.dropout
        return self.padding_free and self._balance is None and not dropout

    @together
    def evaluate(
        self, policies: Sequence[str], examples: Sequence[Example]
    ) -> dict[str, tuple[list[float], list[int]]]:
        """Of each policy: summed nats and supervised tokens of every example, in order.

        Batches are fixed by the lengths alone; as many policies as fit share a pass. Ranks take batches in turn, so
        that each number is the same to the bit for any number of them.
        """
        finish = partial(self._lockstep.finish, partial(self._idle, keep=False))
        where = (self.ranks, self.device, finish, self._agreed)
        return sums_of(policies, examples, self._forward_here, self.base.pad_id, *where)

    @property
    def sampling_path(self) -> SamplingPath:
        """How this base is sampled, found when it is first asked for: see `choose_sampling`."""
        return self._sampling_path or self._choose_sampling()

    @together
    def _choose_sampling(self) -> SamplingPath:
        with self._sampling():
            self._sampling_path = choose_sampling(
                self.model, self.base.pad_id, self._logits, self._positions, self.dtype, end_to_end=self.padding_free
            )
        return self._sampling_path

    @together
    def sample(
        self,
        prompts: Mapping[str, Sequence[Sequence[int]]],
        params: SamplingParams,
        seeds: Mapping[str, int] | None = None,
        max_rows: int | None = None,
    ) -> dict[str, list[Completion]]:
        """One completion for each prompt (token ids) of each policy, all in one batch.

        `seeds` are those of policies that do not draw by that of `params`. With `max_rows`, no more than that are in
        the batch of a rank at once, and waiting prompts take the places of those that have finished.
        """
        ordered = {name: prompts[name] for name in self._slots.order(prompts)}
        numbers = uniforms({name: len(group) for name, group in ordered.items()}, params, seeds or {})
        batcher = self._batcher()

        def complete(places: Mapping[str, Sequence[int]]) -> dict[str, list[Completion]]:
            own = {name: [ordered[name][place] for place in chosen] for name, chosen in places.items()}
            found: dict[str, list[Completion]] = {}
            with self._sampling():
                for some in [{name: group} for name, group in own.items()] if self._alone else [own] * bool(own):
                    drawn = torch.cat([numbers[name][list(places[name])] for name in some])
                    found |= generate(batcher, some, params, self._text, drawn, 1 if self._alone else max_rows)
                self._lockstep.finish(self._idle)
            return found

        found = completed(self.ranks, self.device, ordered, complete, self._agreed)
        return {name: found[name] for name in prompts}

    def stream(self, policy: str, prompt: Sequence[int], params: SamplingParams, on_token: OnToken) -> Completion:
        """The completion that `sample` gives of one prompt, told token by token while it is drawn.

        `on_token` gets each token's id, and ends the completion by False: that of the first rank, by whom it ends.
        """
        return self._stream(policy, prompt, params, Listener(on_token))

    @together
    def _stream(self, policy: str, prompt: Sequence[int], params: SamplingParams, on_token: OnToken) -> Completion:
        batcher = self._batcher()
        with self._sampling():
            return stream(batcher, policy, prompt, params, self._text, lambda token: self.ranks.first(on_token(token)))

    def _batcher(self, prefixes: Prefixes | None = None) -> Batcher:
        """No row yet; its steps belong into `_sampling`."""
        where = (self.model, self.base.pad_id, self._logits, self._positions, prefixes)
        return Batcher(partial(self.sampling_path.decoder, *where), self._slots.order)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        with self._arithmetic(), self._routing.unchanging():
            try:
                yield
            finally:
                reshard(self.model)

    @property
    def _lockstep(self) -> Lockstep:
        """What keeps ranks together whose base lies in parts."""
        return Lockstep(self.ranks if in_parts(self.model) else ALONE)

    @torch.no_grad()
    def _idle(self, *, keep: bool = True) -> None:
        """A pass of one token, for nobody; `keep`: what is gathered outside the layers is wanted by the next."""
        with self._arithmetic(), self._routed((), (), None, chunked=False):
            self.model(input_ids=torch.tensor([[self.base.pad_id]], device=self.device), use_cache=False)
        if not keep:
            reshard(self.model)

    def _text(self, token_ids: list[int]) -> str:
        return str(self.base.tokenizer.decode(token_ids))

    @together
    def save(self, policy: str, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Weights and optimizer state of a policy, atomically, as one safetensors file, which rank 0 writes."""
        save_states({"": self.policies[policy]}, path, metadata or {}, self.ranks)

    @together
    def load(self, policy: str, path: Path) -> dict[str, str]:
        """Restore what `save` wrote, and return its metadata; RecordsError when the file is damaged or another's."""
        return load_state(self.policies[policy], path)

    def _lay_out(self, batches: Mapping[str, Batch]) -> PassLayout:
        known = {name: b if self.shares(name) else replace(b, prompts=None) for name, b in batches.items()}
        if self._positions:
            known = self._positions.apart(known)
        how = {"padded": not self.padding_free, "varlen": self._slots.kernels.varlen}
        return lay_out(known, self._slots.order(known), self.device, positions=bool(self._positions), **how)

    def _agreed(self, run: Callable[[], R]) -> R:
        return self.ranks.agreed(run, self.device, exchanges=in_parts(self.model) or self.cuts.any)

    def _dealing(self, batches: Mapping[str, Batch]) -> Dealing:
        """Who computes what of a call. Where the base lies in parts, no pass may lack a rank."""
        parts = in_parts(self.model)
        apart = self._slots.separable(batches, self.model, in_step=parts) and not (parts and self._alone)
        apart = apart and self.ranks.expert.count == 1  # whose ranks take passes of the same policies
        return Dealing.of(batches, self._slots.order(batches), self.ranks.data.count, apart=apart, equal=self._alone)

    def _forward(self, layout: PassLayout, batches: Mapping[str, Batch], loss: Losses) -> dict[str, PassResult]:
        with self._arithmetic():
            logits = self.model(**layout.inputs).logits
            spans = self._slots.position_spans(layout)
            if all(loss_of(loss, name) is cross_entropy for name in layout.names):
                logprobs, known = self._unembedding.cross_entropies(logits, layout, spans)
            else:
                logprobs, known = self._unembedding.logprobs(logits, layout, spans), {}
        found: dict[str, PassResult] = {}
        for name, part, columns in zip(layout.names, layout.parts, layout.columns, strict=True):
            value = known.get((part.start, part.stop))
            if value is None:
                value = loss_of(loss, name)(logprobs[part], layout.weights[part], **columns)
            found[name] = PassResult(value, logprobs[part], batches[name].supervised)
        return {name: found[name] for name in batches}

    def _logits(
        self, tokens: Mapping[str, int], positions: Mapping[str, int], selected: Tensor | None, run: LogitsFn
    ) -> Tensor:
        """Logits [positions, vocabulary] for the sampler: see `decode.RoutedForward`."""
        all_of, wanted = (self._routing.spans(of, self._slots.spans) for of in (tokens, positions))
        self._lockstep.announce()
        with self._routed(all_of, wanted, selected, chunked=False):
            logits = run().flatten(0, -2)
        if selected is not None and logits.shape[0] != len(selected):
            logits = logits[selected]
        return self.ranks.expert.first(logits)  # they draw for the same rows, and their last bits may differ

    @contextmanager
    def _passing(self, layout: PassLayout, temperature: float = 1.0) -> Iterator[None]:
        """Everything that is different during one pass, its backward included, and only then."""
        attention = patched_attention(self._configs) if self.padding_free else nullcontext()
        self._unembedding.temperature = temperature
        self._positions.lengths = layout.lengths
        tokens = self._slots.spans(layout.names, layout.tokens, layout.token_rows)
        positions = [] if self._unembedding.chunked else self._slots.position_spans(layout)
        routed = self._routed(tokens, positions, layout.selected, chunked=self._unembedding.chunked)
        with attention, cast_once([*tokens, *positions], self.dtype), routed:
            try:
                yield
            finally:
                self._positions.lengths = None

    @contextmanager
    def _routed(
        self, tokens: Sequence[SlotSpan], positions: Sequence[SlotSpan], selected: Tensor | None, *, chunked: bool
    ) -> Iterator[None]:
        """Route tokens, and the positions that the unembedding sees, to their policies."""
        head, routing, own = self._unembedding, self._routing, self._unembedding.chunked
        routing.tokens, routing.positions = tokens, positions
        head.selected, head.chunked = selected, chunked
        try:
            yield
        finally:
            routing.tokens, routing.positions = (), None
            head.selected, head.chunked = None, own

    def _arithmetic(self) -> torch.autocast:
        return arithmetic(self.model, self.device, self.dtype)

    def _select_forward_path(self) -> ForwardPath:
        """How this base can be run, by its own answers on short rows: see `select_forward_path`."""
        with torch.no_grad(), self._arithmetic():
            batch, expected = probe(self.model, self.base.pad_id, self.device, self._positions)
        if bool(expected.isnan().any()):
            raise ModelError(
                f"{self.base.source.asked}: gives no finite probabilities, though its weights are finite: numbers "
                f"overflow in {str(self.dtype).removeprefix('torch.')}. Use --precision float32, or give another base."
            )

        def attempt(path: ForwardPath) -> Tensor:
            self._take(path)
            return self._forward_here({"base": batch})["base"].logprobs

        chosen = select_forward_path(attempt, expected, self.dtype, varlen=supports_varlen(self._configs))
        self._take(chosen)
        return chosen

    def _take(self, path: ForwardPath) -> None:
        self.padding_free, self._unembedding.chunked, self._alone = path.padding_free, path.chunked, path.alone
