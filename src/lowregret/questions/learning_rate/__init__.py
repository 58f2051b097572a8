"""SCIENCE 3.2: how far is LoRA's best rate above FullFT's, and does it move with rank?"""
