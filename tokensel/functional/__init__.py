"""Tensor algorithms: batched functions on tensors, without a model and without state.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Imports nothing of tokensel but its errors. Every
other package may import it.
"""

from tokensel.functional.aggregation import (
    cluster_means,
    counted_attention,
    counted_mean,
    cross_attention,
    nearest_mean,
)
from tokensel.functional.bands import band_quotas, band_scores, keep_in_bands
from tokensel.functional.bounded_density import (
    bounded_centers,
    bounded_centers_of_number,
    cosine_distances,
    density_order,
)
from tokensel.functional.cells import cell_centers, grid_cells
from tokensel.functional.centers import tome_centers
from tokensel.functional.clustering import dpc_knn, dpp_explained, dpp_greedy, dpp_rows, least_similar
from tokensel.functional.coverage import greedy_coverage
from tokensel.functional.covering import (
    affinity_coverage,
    ascending,
    covering_counts,
    covers,
    farthest_coverage,
    keep_best_each,
    mass_coverage,
    mean_coverage,
    score_masses,
)
from tokensel.functional.duplicates import remove_duplicates
from tokensel.functional.flow import drop_count, token_importance
from tokensel.functional.indexing import first_of_best, keep_best, rank, take
from tokensel.functional.learned import counted_learned_attention, learned_attention, learned_cross_attention
from tokensel.functional.merging import bipartite_soft_matching, contextual_tokens, soft_merge, weighted_merge
from tokensel.functional.nearest import merge_nearest
from tokensel.functional.outliers import insert_last, kept_outliers, merge_outliers, outlier_counts, outliers_at_stride
from tokensel.functional.padding import padding_patches
from tokensel.functional.principal import principal_loadings, random_start
from tokensel.functional.reconstruction import distant_points, keep_unexplained, reconstruction_errors
from tokensel.functional.relevance import mean_cosine, scaled_scores, shared_affinity, text_relevance
from tokensel.functional.sampling import farthest_point_sampling
from tokensel.functional.seeding import random_subset, row_scores
from tokensel.functional.set_order import set_order
from tokensel.functional.similarity import cosine_to, degrees, inverse_norms, unit_rows
from tokensel.functional.suppression import group_quotas, keep_in_groups, suppress_similar
from tokensel.functional.temporal import (
    anchor_quotas,
    anchor_weights,
    attended_and_anchors,
    frame_density_order,
    merge_over_time,
    temporal_matching,
    temporal_segments,
)
from tokensel.functional.tiles import tile_order
from tokensel.functional.windows import best_in_windows, grid_windows, local_global_scan

__all__ = [
    "affinity_coverage",
    "anchor_quotas",
    "anchor_weights",
    "ascending",
    "attended_and_anchors",
    "band_quotas",
    "band_scores",
    "best_in_windows",
    "bipartite_soft_matching",
    "bounded_centers",
    "bounded_centers_of_number",
    "cell_centers",
    "cluster_means",
    "contextual_tokens",
    "cosine_distances",
    "cosine_to",
    "counted_attention",
    "counted_learned_attention",
    "counted_mean",
    "covering_counts",
    "covers",
    "cross_attention",
    "degrees",
    "density_order",
    "distant_points",
    "dpc_knn",
    "dpp_explained",
    "dpp_greedy",
    "dpp_rows",
    "drop_count",
    "farthest_coverage",
    "farthest_point_sampling",
    "first_of_best",
    "frame_density_order",
    "greedy_coverage",
    "grid_cells",
    "grid_windows",
    "group_quotas",
    "insert_last",
    "inverse_norms",
    "keep_best",
    "keep_best_each",
    "keep_in_bands",
    "keep_in_groups",
    "keep_unexplained",
    "kept_outliers",
    "learned_attention",
    "learned_cross_attention",
    "least_similar",
    "local_global_scan",
    "mass_coverage",
    "mean_cosine",
    "mean_coverage",
    "merge_nearest",
    "merge_outliers",
    "merge_over_time",
    "nearest_mean",
    "outlier_counts",
    "outliers_at_stride",
    "padding_patches",
    "principal_loadings",
    "random_start",
    "random_subset",
    "rank",
    "reconstruction_errors",
    "remove_duplicates",
    "row_scores",
    "scaled_scores",
    "score_masses",
    "set_order",
    "shared_affinity",
    "soft_merge",
    "suppress_similar",
    "take",
    "temporal_matching",
    "temporal_segments",
    "text_relevance",
    "tile_order",
    "token_importance",
    "tome_centers",
    "unit_rows",
    "weighted_merge",
]
