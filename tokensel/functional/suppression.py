"""Groups of tokens: redundant members of each, and how many members each may keep.

Shapes: B rows of a batch, N visual tokens, G groups, M kept.
"""

import math

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, rank
from tokensel.functional.similarity import ROUNDING, inverse_norms


@torch.no_grad()
def keep_in_groups(tokens: Tensor, scores: Tensor, group: Tensor, groups: int, kept: int) -> Tensor:
    """Keeps some tokens of every group: LongTensor[B, kept].

    tokens [B, N, D], scores [B, N], group LongTensor[B, N] of 0 .. groups - 1; kept < N. The result goes group after
    group; inside a group, first its unsuppressed tokens by falling score, then the suppressed ones likewise. Tokens are
    suppressed at cosines above (kept + 1) / 32 times the mean cosine of the picture's tokens (`suppress_similar`). Each
    group has a quota (`group_quotas`), at most 5 for every 64 kept if that suffices. O(N^2 D).

    Raises TokenselError for kept < 1 or groups > kept. Source: PruneSID (arXiv 2603.09480), where [CLS] is one more
    token that is kept.
    """
    check_kept(kept)
    if groups > kept:
        raise TokenselError(f"groups={groups}: must be at most kept={kept}")
    values = tokens.float()
    unit = values * inverse_norms(values).unsqueeze(-1)
    cosine = torch.bmm(unit, unit.transpose(1, 2))
    threshold = (kept + 1) / 32 * _mean_of_pairs(cosine)
    suppressed = suppress_similar(cosine, scores, group, threshold)
    empty = group.new_zeros(len(group), groups)
    members = empty.scatter_add(1, group, torch.ones_like(group))
    distinct = empty.scatter_add(1, group, (~suppressed).long())
    quotas = group_quotas(members, distinct, kept, cap=5 * math.ceil((kept + 1) / 64))
    order = rank(scores, ROUNDING)
    order = order.gather(1, (2 * group + suppressed).gather(1, order).sort(dim=1, stable=True).indices)
    own = group.gather(1, order)
    first = (members.cumsum(1) - members).gather(1, own)
    place = torch.arange(order.shape[1], device=order.device) - first
    chosen = (place < quotas.gather(1, own)).to(torch.uint8)
    return order.gather(1, chosen.sort(dim=1, descending=True, stable=True).indices[:, :kept])


def _mean_of_pairs(cosine: Tensor) -> Tensor:
    """The mean of cosine [B, N, N] over pairs of different tokens: [B]."""
    count = cosine.shape[1]
    total = cosine.sum((1, 2), dtype=torch.float64) - cosine.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64)
    return (total / max(1, count * (count - 1))).float()


@torch.no_grad()
def suppress_similar(similarity: Tensor, scores: Tensor, group: Tensor, threshold: Tensor) -> Tensor:
    """Non-maximum suppression inside groups: which tokens are suppressed, BoolTensor[B, N].

    From the largest score to the smallest, a token that is not suppressed suppresses all later ones of its group whose
    similarity to it is above the threshold.

    similarity [B, N, N], scores [B, N], group LongTensor[B, N], threshold [B]. Ties of scores go to the lowest index.
    O(N^2). Source: PruneSID (arXiv 2603.09480).
    """
    order = rank(scores, ROUNDING)
    count = order.shape[1]
    clash = (similarity > threshold.view(-1, 1, 1)) & (group.unsqueeze(1) == group.unsqueeze(2))
    clash = clash.gather(1, order.unsqueeze(2).expand(-1, -1, count)).gather(2, order.unsqueeze(1).expand_as(clash))
    suppressed = torch.zeros_like(order, dtype=torch.bool)
    for place, row in enumerate(clash.triu_(1).unbind(1)):
        suppressed |= row > suppressed[:, place : place + 1]  # row and not suppressed
    return torch.zeros_like(suppressed).scatter_(1, order, suppressed)


@torch.no_grad()
def group_quotas(members: Tensor, distinct: Tensor, kept: int, cap: int) -> Tensor:
    """How many tokens each group keeps, `kept` in all, in proportion to its distinct members: LongTensor[B, G].

    members, distinct: LongTensor[B, G], the sizes of the groups and how many of each are not suppressed. Each group
    that has members keeps at least 1; none keeps more than its distinct members and `cap`, as long as that leaves room
    for kept + 1 tokens, else these limits rise together up to the groups' sizes. What the limits cut off goes to the
    groups with the most distinct members; ties go to the lowest index.

    The groups with members must number at most `kept`, and their members at least kept + 1.

    Raises TokenselError for kept < 1. Source: PruneSID (arXiv 2603.09480).
    """
    check_kept(kept)
    least = members.clamp_max(1)
    limit = torch.minimum(members.clamp_max(cap), distinct)
    raised = torch.minimum(
        limit.unsqueeze(1) + torch.arange(kept + 2, device=limit.device).view(-1, 1), members[:, None]
    )
    enough = (raised.sum(2) > kept).to(torch.uint8).argmax(1)
    limit = raised.gather(1, enough.view(-1, 1, 1).expand(-1, 1, limit.shape[1])).squeeze(1)
    spare = (kept - least.sum(1, keepdim=True)).clamp_min(0)
    # At halves, the rounding of the shares decides: float32 as released, but summed in float64, in any order the same.
    shares = distinct.float() / distinct.sum(1, keepdim=True).float()
    ends = (spare.float() * shares.double().cumsum(1).float()).round().long()
    quotas = torch.minimum(least + ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])), limit)
    order = rank(distinct)
    room = (limit - quotas).gather(1, order)
    before = room.cumsum(1) - room
    short = kept - quotas.sum(1, keepdim=True)
    more = torch.minimum((short - before).clamp_min(0), room)
    return quotas.scatter_add(1, order, more)
