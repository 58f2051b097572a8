"""SCIENCE 3.5: does LoRA lose more than FullFT as the batch grows, whatever its rank?"""
