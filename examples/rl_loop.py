"""Reinforcement learning in four verbs: what `lowregret train --objective rl` does, without records or checkpoints.

    python examples/rl_loop.py

Sample a group of completions for each problem, grade them, and make those likelier that were better than their group.
A test holds it to the real trainer's numbers, to the bit.
"""

from lowregret import Engine, load_base
from lowregret.data.batches import batch_indices
from lowregret.engine import AdamParams
from lowregret.engine.losses import importance_sampling
from lowregret.spec import RL, DataSpec, LoRA
from lowregret.tasks import Grade, open_task
from lowregret.train.rl.problems import prepare_problems
from lowregret.train.rl.rollout import Rollout, Sample, batches, draw_seed
from lowregret.train.rl.sampling import sampling_params


def rl(
    model: str, objective: RL, rank: int, learning_rate: float, steps: int, batch_size: int, seed: int
) -> list[float]:
    """Train a LoRA; returns the mean reward of each step's samples."""
    base = load_base(model)
    task = open_task(objective.task)
    problems = prepare_problems(DataSpec(train=objective.task), objective, base.tokenizer).train
    engine = Engine(base)
    engine.add_policy("student", LoRA(rank=rank), seed)

    rewards = []
    for step in range(steps):
        rows = batch_indices(len(problems), batch_size, seed, step)
        prompts = [problems[row] for row in rows for _ in range(objective.group_size)]

        drawn = engine.sample(
            {"student": [prompt.token_ids for prompt in prompts]},
            sampling_params(engine, objective),
            {"student": draw_seed(seed, step)},
        )["student"]
        texts = [base.tokenizer.decode(completion.token_ids, skip_special_tokens=True) for completion in drawn]
        samples = [Sample(*parts) for parts in zip(prompts, drawn, texts, strict=True)]
        grades = [Grade(task.grade(sample.text, sample.prompt.problem)) for sample in samples]

        # An advantage is a reward minus the mean of its group; groups of equal rewards are left out.
        (batch,) = batches(Rollout(samples, grades, objective.group_size), base.pad_id)
        if batch is not None:
            engine.forward_backward({"student": batch}, importance_sampling)
            engine.optim_step({"student": AdamParams(learning_rate)})
        rewards.append(sum(grade.reward for grade in grades) / len(grades))
    return rewards


if __name__ == "__main__":
    arithmetic = RL(task="builtin:arithmetic:difficulty=5", group_size=8, max_tokens=80)
    curve = rl("tiny", arithmetic, rank=1, learning_rate=2e-3, steps=20, batch_size=16, seed=0)
    print("mean reward by step:", " ".join(f"{reward:.2f}" for reward in curve))
