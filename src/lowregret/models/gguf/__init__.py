"""GGUF files: headers, parts, and what transformers' reader leaves out of them. `header` needs no torch."""
