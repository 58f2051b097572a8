"""Adapters in the formats of others: PEFT, and servers that read one LoRA for each expert."""
