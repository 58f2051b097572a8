"""Verifiable rewards: where problems come from, and how a completion is graded. Torch-free.

builtin:arithmetic[:difficulty=3,size=1024,…]   worked chains of one-digit sums, with problems of its own
gym:NAME[:key=value,…]                          a task of reasoning-gym, with problems of its own
math                                            GSM8K and MATH style rows, graded by math-verify
MODULE:FUNCTION, FILE.py:FUNCTION               a function (prompt, completion, row) -> float of your own
"""

from lowregret.tasks.base import Problem, Task
from lowregret.tasks.grading import Grade, Grader, total_failure
from lowregret.tasks.registry import open_task
from lowregret.tasks.source import reward_source

__all__ = ["Grade", "Grader", "Problem", "Task", "open_task", "reward_source", "total_failure"]
