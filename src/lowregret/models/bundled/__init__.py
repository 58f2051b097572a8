"""Small bases of our own, a Hugging Face folder each, made by tools/pretrain.py."""
