"""Answers before anything is trained: which method, rank and rate, how much memory, time and money. Torch-free."""
