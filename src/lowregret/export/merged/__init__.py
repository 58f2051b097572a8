"""Adapters merged into the files of their base, tensor by tensor, for models that are larger than the memory."""
