"""Supervised fine-tuning: the step on given completions, and a training without a record."""
