"""LoRA or full fine-tuning? Measure the regret, with an error bar."""

__version__ = "0.1.0"
