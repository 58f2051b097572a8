"""One training on many processes: who computes which rows, what is added up, and where weights lie in parts."""

from lowregret.engine.parallel.mesh import Ranks

__all__ = ["Ranks"]
