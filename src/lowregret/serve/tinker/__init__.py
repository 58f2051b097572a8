"""Tinker's protocol: what many clients train and draw by on one base, in the same passes, with state on disk."""
