"""SCIENCE 3.7: does LoRA match FullFT down to rank 1 where rewards teach, at more learning rates?"""
