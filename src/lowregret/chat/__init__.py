"""Talking with a base and with what was trained on it, side by side."""
