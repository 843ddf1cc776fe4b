"""Tensor algorithms: batched functions on tensors, without a model and without state.

Imports nothing of tokensel but its errors. Every other package may import it.
"""

from tokensel.functional.merging import bipartite_soft_matching
from tokensel.functional.sampling import cross_attention, farthest_point_sampling, tome_centers

__all__ = ["bipartite_soft_matching", "cross_attention", "farthest_point_sampling", "tome_centers"]
