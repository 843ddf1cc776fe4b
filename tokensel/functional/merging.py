"""Merging visual tokens: the hidden states of dropped tokens are added to those of the survivors.

Shapes: B rows of a batch, N visual tokens, M kept, D hidden size. Half precision in, half precision out; similarity
and means are float32 inside. The cosine of a zero vector with anything, itself included, is 0. Ties go to the lowest
index.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, first_of_best, rank, take
from tokensel.functional.similarity import EPSILON, EXACT, ROUNDING, inverse_norms, query_cosines, unit_rows


@dataclass(frozen=True)
class Merge:
    """A merging of N tokens into M, to be applied to any tensor of those tokens.

    assign: LongTensor[B, N], the output that each token is merged into. positions: LongTensor[B, M], the token at whose
    position each output stands: an unmerged source, or a destination.
    """

    positions: Tensor
    assign: Tensor

    def __call__(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Size-weighted means: x [B, N, C], size [B, N, 1] (default: all 1) -> means [B, M, C], sizes [B, M, 1].

        An output's size is the float32 sum of its tokens' sizes.
        """
        weights = torch.ones_like(self.assign, dtype=torch.float32) if size is None else size.float().squeeze(-1)
        means, sizes = _weighted_means(x.float(), weights, self.assign, self.positions.shape[1])
        return means.to(x.dtype), sizes

    def in_order(self) -> "Merge":
        """The same merging with its outputs by ascending position."""
        positions, order = self.positions.sort(dim=1)
        return Merge(positions, order.argsort(1).gather(1, self.assign))


def _weighted_means(tokens: Tensor, weights: Tensor, assign: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weighted means of the tokens assigned to each of `count` outputs.

    tokens [B, N, C], weights [B, N], assign LongTensor[B, N] -> means [B, count, C], sums of the weights [B, count, 1].
    An output without tokens is 0. Sums run in the order of the tokens, so that results repeat exactly on every device;
    index_add and scatter do not guarantee that.
    """
    batch = assign.shape[0]
    offset = torch.arange(0, batch * count, count, device=assign.device)
    outputs, members = (assign + offset.unsqueeze(1)).flatten().sort(stable=True)
    starts = torch.searchsorted(outputs, torch.arange(batch * count, device=assign.device))
    flat = weights.flatten()
    sums = embedding_bag(members, tokens.flatten(0, 1), starts, mode="sum", per_sample_weights=flat[members])
    sizes = embedding_bag(members, flat.unsqueeze(1), starts, mode="sum")
    return (sums / sizes.clamp_min(EPSILON)).view(batch, count, -1), sizes.view(batch, count, 1)


@torch.no_grad()
def bipartite_soft_matching(metric: Tensor, r: int, class_token: bool = False) -> Merge:
    """The original ToMe: each even token is paired with its most similar odd token, and the r most similar pairs merge.

    metric: [B, N, D], compared by cosine. Returns merge(x [B, N, C], size=None) -> (x [B, N-r, C], size [B, N-r, 1]):
    unmerged sources (even tokens) by falling similarity, then destinations (odd tokens) in their order. r is clamped to
    0 .. N // 2; r=0 changes nothing. class_token: the first token is not merged and stays first; the unmerged sources
    are then in their order and r is at most (N - 1) // 2. Memory: the even x odd similarities.

    Source: Bolya et al. 2023 (ToMe, arXiv 2210.09461).
    """
    batch, count, _ = metric.shape
    everyone = torch.arange(count, device=metric.device).repeat(batch, 1)
    r = min(r, (count - class_token) // 2)
    if r <= 0:
        return Merge(everyone, everyone)
    metric = metric.float()
    unit = metric * inverse_norms(metric).unsqueeze(-1)
    similarity = torch.bmm(unit[:, ::2], unit[:, 1::2].transpose(1, 2))
    if class_token:
        similarity[:, 0] = -torch.inf
    strength, destination = similarity.max(2)
    order = rank(strength, ROUNDING)
    merged, unmerged = order[:, :r], order[:, r:]
    if class_token:
        unmerged = unmerged.sort(dim=1).values
    sources = unmerged.shape[1]
    odd = everyone[:, : count // 2] + sources
    even = torch.empty_like(order)
    even.scatter_(1, unmerged, everyone[:, :sources])
    even.scatter_(1, merged, odd.gather(1, destination.gather(1, merged)))
    assign = torch.empty_like(everyone)
    assign[:, ::2], assign[:, 1::2] = even, odd
    return Merge(torch.cat([unmerged * 2, everyone[:, 1::2]], 1), assign)


def soft_merge(metric: Tensor, tokens: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Repeats `bipartite_soft_matching` until `kept` tokens remain. Tokens are in position order in every round.

    metric [B, N, Dm], tokens [B, N, D] -> positions LongTensor[B, M] ascending, values [B, M, D] in the tokens' dtype,
    sizes float32 [B, M]: how many tokens each value is the mean of. A round merges at most half of the remaining
    tokens, and the metric along with them. kept >= N returns everything unchanged.

    Raises TokenselError for kept < 1. Source: Bolya et al. 2023 (ToMe, arXiv 2210.09461), over one set of tokens.
    """
    check_kept(kept)
    batch, count, _ = tokens.shape
    positions = torch.arange(count, device=tokens.device).repeat(batch, 1)
    metric, values, sizes = metric.float(), tokens.float(), torch.ones(batch, count, 1, device=tokens.device)
    while count > kept:
        merge = bipartite_soft_matching(metric, min(count - kept, count // 2)).in_order()
        values, _ = merge(values, sizes)
        metric, sizes = merge(metric, sizes)
        positions = positions.gather(1, merge.positions)
        count = positions.shape[1]
    return positions, values.to(tokens.dtype), sizes.squeeze(-1)


def contextual_tokens(tokens: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """VisionZip's contextual tokens: targets at a uniform stride, each plus the mean of the tokens assigned to it.

    tokens [B, R, D], keys [B, R, Dk] -> positions LongTensor[B, min(count, R)] ascending, values [B, min(count, R), D]
    in the tokens' dtype. Every token that is not a target is assigned to the target with the most similar key (cosine).
    A target without assigned tokens keeps its own value.

    Raises TokenselError for count < 1. Source: Yang et al. 2024 (VisionZip, arXiv 2412.04467).
    """
    if count < 1:
        raise TokenselError(f"count={count}: must be at least 1")
    batch, rest, _ = tokens.shape
    count = min(count, rest)
    positions = torch.arange(0, rest, rest // count, device=tokens.device)[:count].repeat(batch, 1)
    values, keys = tokens.float(), keys.float()
    unit = keys * inverse_norms(keys).unsqueeze(-1)
    # Distances rank like cosines, but near-duplicates by more than float32's rounding.
    distance = torch.cdist(take(unit, positions), unit, compute_mode="donot_use_mm_for_euclid_dist")
    assign = first_of_best(-distance, tolerance=ROUNDING).squeeze(1)
    others = torch.ones_like(values[..., 0]).scatter(1, positions, 0)
    means, _ = _weighted_means(values, others, assign, count)
    return positions, (take(values, positions) + means).to(tokens.dtype)


def weighted_merge(tokens: Tensor, keys: Tensor, weights: Tensor, positions: Tensor, neighbours: int = 32) -> Tensor:
    """LLaVA-PruMerge's update: each kept token plus the weighted sum of the `neighbours` tokens most similar to it.

    tokens [B, N, D], keys [B, N, Dk] compared by cosine, weights [B, N], positions LongTensor[B, M] of the kept tokens
    -> [B, M, D] in the tokens' dtype. A token is not its own neighbour, but another kept token can be a neighbour.
    neighbours is clamped to N - 1. Tokens of a plain background are all alike, and their cosines differ by little more
    than float32's rounding, so cosines are float64. O(N M Dk).

    Raises TokenselError for neighbours < 1. Source: Shang et al. 2024 (LLaVA-PruMerge, arXiv 2403.15388).
    """
    if neighbours < 1:
        raise TokenselError(f"neighbours={neighbours}: must be at least 1")
    batch, count, _ = tokens.shape
    kept, neighbours = positions.shape[1], min(neighbours, count - 1)
    values, keys = tokens.float(), keys.double()
    inverse = inverse_norms(keys)
    similarity = query_cosines(keys, inverse, unit_rows(keys, inverse, positions))
    similarity = similarity.scatter(2, positions.unsqueeze(2), -torch.inf).flatten(0, 1)
    nearest = rank(similarity, EXACT)[:, :neighbours].view(batch, kept, -1)
    shares = weights.float().unsqueeze(1).expand(-1, kept, -1).gather(2, nearest)
    members = nearest + torch.arange(0, batch * count, count, device=tokens.device).view(-1, 1, 1)
    starts = torch.arange(batch * kept, device=tokens.device) * neighbours
    sums = embedding_bag(
        members.flatten(), values.flatten(0, 1), starts, mode="sum", per_sample_weights=shares.flatten()
    )
    return (take(values, positions) + sums.view(batch, kept, -1)).to(tokens.dtype)
