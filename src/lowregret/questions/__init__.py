"""The questions of the post: a folder each, with its spec, its claims beside their statistics, and its figures."""
