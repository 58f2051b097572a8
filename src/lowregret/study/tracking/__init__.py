"""Trials as runs at MLflow, Weights & Biases or TensorBoard, while they train."""
