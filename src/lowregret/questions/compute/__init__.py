"""SCIENCE 3.9: time and memory of a LoRA step over those of a FullFT step, against theory."""
