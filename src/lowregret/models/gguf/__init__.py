"""GGUF files: their header, their parts, and what transformers' reader leaves out of them. The header needs no torch."""
