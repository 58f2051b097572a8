"""LoRA on the weights of a base: how adapters start, lie in memory, multiply and are written."""
