"""Reinforcement learning with verifiable rewards: problems, samples, grades, and the step."""
