"""What a program does with Tinker's SDK, of whichever version; run by an environment that has it. Prints JSON."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tinker  # noqa: E402
from tinker import types  # noqa: E402


def made(given: Any) -> Any:
    """A client, of which SDKs from 0.38 on give a future."""
    return given.result() if hasattr(given, "result") else given


def datum(tokens: list[int], **inputs: Any) -> Any:
    given = {"target_tokens": [*tokens[1:], 0], "weights": [1.0] * len(tokens), **inputs}
    tensors = {
        name: types.TensorData.from_numpy(np.asarray(value, np.int64 if name == "target_tokens" else np.float32))
        for name, value in given.items()
    }
    return types.Datum(model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=tensors)


def main(address: str, given: dict[str, Any]) -> dict[str, Any]:
    service = tinker.ServiceClient(base_url=address)
    training = made(service.create_lora_training_client(base_model="tiny", rank=8, seed=0))
    found: dict[str, Any] = {"rank": training.get_info().lora_rank, "losses": [], "norms": []}
    for tokens in given["rows"]:
        passed = training.forward_backward([datum(row) for row in tokens], "cross_entropy")
        stepped = training.optim_step(types.AdamParams(learning_rate=1e-2))
        found["losses"].append(passed.result().metrics["loss:sum"])
        found["norms"].append(stepped.result().metrics["grad_norm"])
    prompt = types.ModelInput.from_ints(given["prompt"])
    sampler = made(training.save_weights_and_get_sampling_client())
    params = types.SamplingParams(max_tokens=6, seed=1)
    drawn = sampler.sample(
        prompt=prompt, num_samples=2, sampling_params=params, include_prompt_logprobs=True, topk_prompt_logprobs=2
    ).result()
    found["drawn"] = [[list(map(int, own.tokens)), list(map(float, own.logprobs))] for own in drawn.sequences]
    found["prompt"] = drawn.prompt_logprobs
    found["top"] = drawn.topk_prompt_logprobs
    found["scored"] = sampler.compute_logprobs(prompt).result()
    tokens = [*given["prompt"], *found["drawn"][0][0]][:-1]
    ratio = {
        "logprobs": [0.0] * (len(given["prompt"]) - 1) + found["drawn"][0][1],
        "advantages": [0.0] * (len(given["prompt"]) - 1) + [1.0] * len(found["drawn"][0][1]),
        "target_tokens": [0] * (len(given["prompt"]) - 1) + found["drawn"][0][0],
    }
    sampled = types.Datum(
        model_input=types.ModelInput.from_ints(tokens),
        loss_fn_inputs={name: own for name, own in datum(tokens, **ratio).loss_fn_inputs.items() if name != "weights"},
    )
    found["policy"] = {
        loss: training.forward_backward([sampled], loss).result().metrics["loss:sum"]
        for loss in ("importance_sampling", "ppo", "cispo", "dro")
    }
    several = datum(tokens, target_tokens=[[7, 8]] * len(tokens), weights=[[0.5, 0.5]] * len(tokens))
    shape = training.forward([several], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].shape
    found["several"] = list(shape)
    path = training.save_state("here").result().path
    second = made(service.create_training_client_from_state_with_optimizer(path))
    third = made(service.create_training_client_from_state(path))
    data = [datum(row) for row in given["rows"][0]]
    found["same"] = [
        client.forward(data, "cross_entropy").result().metrics["loss:sum"] for client in (training, second, third)
    ]
    many = training.forward_backward([datum([5, 6])] * 2500, "cross_entropy").result()
    found["many"] = [len(many.loss_fn_outputs), many.metrics["loss:sum"]]
    try:
        training.forward_backward([datum([1, 99999])], "cross_entropy").result()
    except tinker.BadRequestError as error:
        found["refused"] = str(error)
    found["after"] = training.forward(data, "cross_entropy").result().metrics["loss:sum"]
    rest = service.create_rest_client()
    found["kept"] = [each.tinker_path for each in rest.list_checkpoints(training.model_id).result().checkpoints]
    named = training.save_weights_for_sampler("named").result().path
    found["named"] = made(service.create_sampling_client(model_path=named)).compute_logprobs(prompt).result()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
