"""The version of this package; a leaf that everything may import. Packaging reads it without running it."""

__version__ = "0.3.0.dev0"
