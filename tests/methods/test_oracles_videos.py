"""Methods for videos against slow, obvious versions of their rules."""

import math

import pytest
import torch

from tokensel import make_method
from tokensel.testing import make_context, make_vision

FRAMES, PLACES, SIZE = 5, 6, 8


def video(seed=0, rows=2, still=0.0):
    """Tokens [B, N, D] of frames that follow from each other, the more alike the larger `still`."""
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(rows, PLACES, SIZE, generator=generator)]
    for _ in range(FRAMES - 1):
        change = torch.randn(rows, PLACES, SIZE, generator=generator)
        frames.append(still * frames[-1] + (1 - still) * change)
    return torch.cat(frames, 1)


def cosine(one, other):
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def merge_by_hand(tokens, kept):
    """Groups of token numbers, and the first of each: pairs of consecutive frames join, most similar first."""
    pairs = []
    for frame in range(FRAMES - 1):
        for place in range(PLACES):
            here = frame * PLACES + place
            pairs.append((-cosine(tokens[here], tokens[here + PLACES]), here))
    group = list(range(len(tokens)))
    for _, here in sorted(pairs)[: len(tokens) - kept]:
        old, new = group[here + PLACES], group[here]
        group = [new if each == old else each for each in group]
    return {first: [token for token in range(len(tokens)) if group[token] == first] for first in sorted(set(group))}


@pytest.mark.parametrize("kept", [6, 11, 24, 29])
def test_temporal_merge_joins_equal_places_of_consecutive_frames(kept):
    tokens = video(still=0.6)
    selection = make_method("temporal_merge").select(make_context(kept, tokens=tokens, grid=(FRAMES, 2, 3)))
    more = torch.rand(2, FRAMES * PLACES, 3)
    merged = selection.merge(more)
    for row in range(2):
        groups = merge_by_hand(tokens[row], kept)
        assert selection.indices[row].tolist() == list(groups)
        for place, members in enumerate(groups.values()):
            torch.testing.assert_close(selection.values[row, place], tokens[row, members].mean(0))
            torch.testing.assert_close(merged[row, place], more[row, members].mean(0))


def test_temporal_merge_goes_on_within_a_frame_where_one_token_for_each_place_is_too_many():
    tokens = video(still=0.9, rows=1)
    context = make_context(4, tokens=tokens, grid=(FRAMES, 2, 3))
    selection = make_method("temporal_merge").select(context)
    assert selection.indices.shape == (1, 4)
    # As means over time, merged further by soft matching, weighted by nothing but their members.
    columns = torch.stack([tokens[0, place::PLACES].mean(0) for place in range(PLACES)])[None]
    picture = make_context(4, tokens=columns, grid=(2, 3))
    again = make_method("temporal_merge").select(picture)
    assert selection.indices[0].tolist() == again.indices[0].tolist()
    torch.testing.assert_close(selection.values, again.values)


def segments_by_hand(features, number, threshold):
    similar = [cosine(features[frame], features[frame + 1]) for frame in range(FRAMES - 1)]
    cuts = set(sorted(range(FRAMES - 1), key=lambda frame: similar[frame])[: number - 1])
    cuts |= {frame for frame in range(FRAMES - 1) if similar[frame] < threshold}
    segments, current = [], [0]
    for frame in range(1, FRAMES):
        if frame - 1 in cuts:
            segments.append(current)
            current = []
        current.append(frame)
    return [*segments, current]


def density_by_hand(points):
    """The score of each token of a frame: density times the distance to the nearest denser one."""
    distance = [[float((one - other).norm()) / math.sqrt(SIZE) for other in points] for one in points]
    density = [math.exp(-sum(each**2 for each in sorted(row)[:4]) / min(4, len(row))) for row in distance]
    scores = []
    for token, row in enumerate(distance):
        denser = [row[other] for other in range(len(points)) if density[other] > density[token]]
        scores.append(density[token] * (min(denser) if denser else max(map(max, distance))))
    return scores


def fastvid_by_hand(tokens, attention, kept, number, threshold, merged, step, weight):
    """What remains, by token number, with what it carries."""
    share, more = divmod(kept, FRAMES)
    each = int(share * merged)
    frames = [list(range(frame * PLACES, (frame + 1) * PLACES)) for frame in range(FRAMES)]
    features = [tokens[frame].mean(0) for frame in frames]
    found, rest = {}, []
    for index, frame in enumerate(frames):
        attended = sorted(frame, key=lambda token: -attention[token])[: share - each + (index < more)]
        found |= {token: tokens[token] for token in attended}
        rest.append([token for token in frame if token not in attended])
    for segment in segments_by_hand(features, number, threshold):
        for wider in range(step, 0, -1):
            holders = [frame for frame in segment if (segment[-1] - frame) % wider == 0]
            total = each * len(segment)
            quotas = [total // len(holders) + (place < total % len(holders)) for place in range(len(holders))]
            if max(quotas) <= PLACES - (share - each + (more > 0)):
                break
        members = [token for frame in segment for token in rest[frame]]
        for frame, quota in zip(holders, quotas, strict=True):
            scores = density_by_hand([tokens[token] for token in rest[frame]])
            best = sorted(range(len(scores)), key=lambda place: -scores[place])[:quota]
            anchors = [rest[frame][place] for place in sorted(best)]
            joined = {anchor: [] for anchor in anchors}
            for token in members if anchors else []:
                joined[max(anchors, key=lambda anchor: cosine(tokens[token], tokens[anchor]))].append(token)
            for anchor in anchors:
                share_of_own = max(1 / (len(joined[anchor]) + 1), weight)
                mean = tokens[joined[anchor]].mean(0)
                found[anchor] = share_of_own * tokens[anchor] + (1 - share_of_own) * mean
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("kept", "number", "threshold", "step", "weight"),
    [(16, 2, -1.0, 4, 0.6), (17, 1, 0.2, 2, 0.1), (25, 1, -1.0, 4, 0.0), (27, 3, 0.9, 1, 0.6), (3, 2, 0.0, 4, 0.6)],
)
def test_fastvid_follows_its_rule(kept, number, threshold, step, weight):
    tokens = video(seed=3, still=0.5)
    attention = torch.rand(2, 1, FRAMES * PLACES, generator=torch.Generator().manual_seed(1))
    context = make_context(
        kept,
        tokens=tokens,
        text=torch.zeros(2, 1, SIZE),
        grid=(FRAMES, 2, 3),
        vision=make_vision(tokens, cls_attention=attention),
    )
    options = {"segments": number, "threshold": threshold, "step": step, "weight": weight}
    selection = make_method("fastvid", **options).select(context)
    for row in range(2):
        expected = fastvid_by_hand(tokens[row], attention[row, 0], kept, number, threshold, 0.4, step, weight)
        assert selection.indices[row].tolist() == list(expected)
        torch.testing.assert_close(selection.values[row], torch.stack(list(expected.values())), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(selection.merge(tokens)[row], selection.values[row])


def test_a_scene_change_begins_a_segment_of_its_own():
    from tokensel.functional import temporal_segments

    scene = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.1, 1.0]])
    assert temporal_segments(scene[None], 1, 0.5).tolist() == [[0, 0, 1, 1, 1]]
    assert temporal_segments(scene[None], 2, -1.0).tolist() == [[0, 0, 1, 1, 1]]
    assert temporal_segments(scene[None], 3, -1.0)[0, -1] == 2
    assert temporal_segments(scene[None], 9, -1.0).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(("option", "value"), [("segments", 0), ("step", 0.5), ("merged", 1.5), ("weight", -1)])
def test_fastvid_refuses_wrong_options(option, value):
    with pytest.raises(Exception, match=rf"^{option}={value!r}: must be "):
        make_method("fastvid", **{option: value})
