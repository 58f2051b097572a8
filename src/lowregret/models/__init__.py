"""The base: where it comes from, which of its matrices can be adapted, and how it holds its experts."""
