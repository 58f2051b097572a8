"""LoRA on a mixture of experts: on the fused matrices of all experts of a layer, and on the router beside them."""
