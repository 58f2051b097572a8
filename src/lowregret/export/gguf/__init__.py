"""A model, or a LoRA on one, as a file that llama.cpp and what is built on it read, and the proof that they do."""
