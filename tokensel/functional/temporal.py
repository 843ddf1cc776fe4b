"""Videos: merging equal places of consecutive frames, segments of similar frames, and anchors of dense tokens.

Shapes: B rows of a batch, F frames of P tokens each, N = F P visual tokens, frame after frame, M kept, D hidden size.
Computation is float32. The cosine of a zero vector with anything is 0. Ties go to the lowest index.
"""

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional.indexing import check_kept, first_of_best, rank
from tokensel.functional.merging import Merge, bipartite_soft_matching
from tokensel.functional.similarity import ROUNDING, inverse_norms

# Nearest tokens that make a token dense, itself included.
NEIGHBOURS = 4


@torch.no_grad()
def temporal_matching(tokens: Tensor, frames: int, kept: int) -> Merge:
    """Merges tokens at the same place of two consecutive frames, most similar pairs first.

    tokens [B, N, D] -> the merging of N tokens into max(kept, P). Tokens that are merged along several frames become
    one output, at the position of the first. Similarity is the cosine. O(N D).

    Raises TokenselError for kept < 1, and where N is not divisible by frames.
    """
    check_kept(kept)
    places = _places(tokens, frames)
    batch, count = tokens.shape[:2]
    units = (tokens.float() * inverse_norms(tokens.float()).unsqueeze(-1)).view(batch, frames, places, -1)
    similarity = (units[:, 1:] * units[:, :-1]).sum(-1).flatten(1)  # [B, (F - 1) P]
    pairs = rank(similarity, ROUNDING)[:, : count - max(kept, places)]
    first = torch.ones(batch, count, dtype=torch.bool, device=tokens.device)
    first = first.scatter(1, pairs + places, False)
    frame = torch.arange(frames, device=tokens.device).view(1, -1, 1)
    begin = (first.view(batch, frames, places) * frame).cummax(1).values  # the frame in which a token's output begins
    begin = (begin * places + torch.arange(places, device=tokens.device)).flatten(1)
    left = max(kept, places) if kept < count else count
    positions = (~first).to(torch.uint8).sort(dim=1, stable=True).indices[:, :left]
    return Merge(positions, (first.long().cumsum(1) - 1).gather(1, begin))


def merge_over_time(tokens: Tensor, frames: int, kept: int) -> Merge:
    """`temporal_matching`; where fewer than a frame's tokens shall remain, what is left of it is merged further by
    `bipartite_soft_matching`. tokens [B, N, D] -> the merging of N tokens into min(kept, N)."""
    merge = temporal_matching(tokens, frames, kept)
    while merge.positions.shape[1] > kept:
        values, _ = merge(tokens.float())
        count = values.shape[1]
        again = bipartite_soft_matching(values, min(count - kept, count // 2)).in_order()
        merge = Merge(merge.positions.gather(1, again.positions), again.assign.gather(1, merge.assign))
    return merge


@torch.no_grad()
def temporal_segments(features: Tensor, segments: int, threshold: float) -> Tensor:
    """Consecutive frames of one segment: LongTensor[B, F] of segment numbers, which rise from 0.

    features [B, F, D], one vector for each frame. A new segment begins behind the segments - 1 transitions that are
    least similar by cosine, and behind every transition below the threshold.

    Source: FastVID (arXiv 2503.11187), dynamic temporal segmentation, and its release.
    """
    units = features.float() * inverse_norms(features.float()).unsqueeze(-1)
    similarity = (units[:, 1:] * units[:, :-1]).sum(-1)
    least = rank(-similarity, ROUNDING)[:, : segments - 1]
    cut = (similarity < threshold).scatter(1, least, True)
    return torch.nn.functional.pad(cut.long().cumsum(1), (1, 0))


def anchor_quotas(segment: Tensor, each: int, room: int, step: int) -> Tensor:
    """How many anchors each frame has, where each frame of a segment contributes `each`: LongTensor[B, F].

    segment: LongTensor[B, F]. The anchors of a segment stand in its last frame and every `step`-th before it, equally
    many in each, one more in the first ones if there is a remainder. room: the most that fit in a frame; a segment
    whose frames cannot hold theirs takes frames at a smaller step. each <= room.

    Source: FastVID's release, which leaves the remainder out.
    """
    number = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    same = segment.unsqueeze(2) == segment.unsqueeze(1)
    length = same.sum(2)
    to_end = torch.where(same, number.unsqueeze(1), 0).amax(2) - number
    total, steps = each * length, torch.ones_like(length)
    for wider in range(2, step + 1):
        holders = (length + wider - 1) // wider
        steps = torch.where((total + holders - 1) // holders <= room, wider, steps)
    holders = (length + steps - 1) // steps
    place = holders - 1 - to_end // steps
    return torch.where(to_end % steps == 0, total // holders + (place < total % holders), 0)


@torch.no_grad()
def frame_density_order(tokens: Tensor, apart: Tensor) -> Tensor:
    """The tokens of each frame by falling density score: LongTensor[K, P].

    tokens [K, P, D], of K frames. apart: BoolTensor[K, P], tokens that do not take part; they come last. A token is
    dense if its nearest tokens, itself among them, are near: exp(-mean squared distance), distances |x - y| / sqrt(D).
    Its score is the density times the distance to the nearest denser token; the densest has the largest distance.

    Source: FastVID (arXiv 2503.11187) and its release, which breaks ties at random.
    """
    points = tokens.float() / tokens.shape[-1] ** 0.5
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(apart.unsqueeze(1) | apart.unsqueeze(2), torch.inf)
    some = min(NEIGHBOURS, distance.shape[2])
    nearest = distance.topk(some, dim=2, largest=False).values
    real = nearest.isfinite()
    squared = torch.where(real, nearest, 0).square().sum(2) / real.sum(2).clamp_min(1)
    density = (-squared).masked_fill(apart, -torch.inf)  # its logarithm
    place = rank(density, ROUNDING).argsort(1)
    denser = (place.unsqueeze(1) < place.unsqueeze(2)) & distance.isfinite()
    largest = torch.where(distance.isfinite(), distance, 0).amax((1, 2))
    nearest_denser = torch.where(denser, distance, torch.inf).amin(2)
    nearest_denser = torch.where(nearest_denser.isfinite(), nearest_denser, largest.unsqueeze(1))
    # The logarithm of the product: the density itself would underflow to 0. Equal points have distance 0.
    score = density + nearest_denser.clamp_min(1e-30).log()
    return rank(score.masked_fill(apart, -torch.inf), ROUNDING)


@torch.no_grad()
def attended_and_anchors(
    tokens: Tensor, attention: Tensor, segment: Tensor, kept: int, merged: float, step: int
) -> tuple[Tensor, Tensor]:
    """Which tokens remain for their attention, and which as anchors: two BoolTensor[B, N], together `kept` in each row.

    tokens [B, N, D], attention [B, N], segment LongTensor[B, F]. Of a frame's share of `kept`, the part `merged`,
    rounded down, goes to the anchors of its segment, see `anchor_quotas` for step; the remainder of kept / F to
    attended tokens of the first frames.
    """
    (batch, count), frames = tokens.shape[:2], segment.shape[1]
    places = _places(tokens, frames)
    share, more = divmod(kept, frames)
    each = int(share * merged)
    order = rank(attention.reshape(batch * frames, places)).argsort(1).view(batch, frames, places)
    wanted = share - each + (torch.arange(frames, device=tokens.device) < more).long()
    attended = order < wanted.view(1, -1, 1)
    quotas = anchor_quotas(segment, each, places - share + each - (more > 0), step)
    dense = frame_density_order(tokens.reshape(batch * frames, places, -1), attended.view(-1, places)).argsort(1)
    anchors = dense.view(batch, frames, places) < quotas.unsqueeze(2)
    return attended.view(batch, count), anchors.view(batch, count)


@torch.no_grad()
def anchor_weights(
    tokens: Tensor, segment: Tensor, attended: Tensor, anchors: Tensor, positions: Tensor, least: float
) -> Tensor:
    """What the tokens at `positions` LongTensor[B, M] are made of: weights of all tokens, [B, M, N].

    attended, anchors: BoolTensor[B, N]. An attended token is itself. For each frame with anchors, every token of its
    segment that is not attended joins the most similar of them by cosine. An anchor is w of itself and 1 - w of the
    mean of what joined it, w = max(1 / (number + 1), least). O(N^2 D).

    Source: FastVID (arXiv 2503.11187), density-based token merging, and its release.
    """
    (batch, count), frames = tokens.shape[:2], segment.shape[1]
    places = _places(tokens, frames)
    units = tokens.float() * inverse_norms(tokens.float()).unsqueeze(-1)
    kept = torch.arange(positions.shape[1], device=tokens.device).expand_as(positions)
    slots = torch.zeros_like(anchors, dtype=torch.long).scatter(1, positions, kept)
    joined = torch.zeros(batch, positions.shape[1], count, device=tokens.device)
    own = joined.scatter(2, positions.unsqueeze(2), 1)
    for frame in range(frames):
        here = slice(frame * places, (frame + 1) * places)
        similarity = torch.bmm(units, units[:, here].transpose(1, 2))
        similarity = similarity.masked_fill(~anchors[:, here].unsqueeze(1), -torch.inf)
        best = frame * places + first_of_best(similarity, 2, ROUNDING).squeeze(2)
        joins = (segment == segment[:, frame : frame + 1]).repeat_interleave(places, 1) & ~attended
        joins = (joins & anchors[:, here].any(1, keepdim=True)).float()
        joined = joined.scatter_add(1, slots.gather(1, best).unsqueeze(1), joins.unsqueeze(1))
    number = joined.sum(2, keepdim=True)
    weight = torch.where(number > 0, (1 / (number + 1)).clamp_min(least), 1)
    return weight * own + (1 - weight) * joined / number.clamp_min(1)


def _places(tokens: Tensor, frames: int) -> int:
    """Tokens of each frame."""
    count = tokens.shape[1]
    if frames < 1 or count % frames:
        raise TokenselError(f"frames={frames}: must divide {count}, the number of visual tokens")
    return count // frames
