"""GGUF files: their header, their parts, and what transformers' reader leaves out. The header needs no torch."""
