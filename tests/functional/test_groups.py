"""Bands, principal components, groups and tiles: against simple oracles, and properties that hold for any input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensel import TokenselError, make_method
from tokensel.functional import (
    band_quotas,
    band_scores,
    group_quotas,
    keep_in_bands,
    keep_in_groups,
    principal_loadings,
    suppress_similar,
    tile_order,
)
from tokensel.testing import make_context, make_vision

seeds = st.integers(0, 10_000)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 40), st.integers(1, 20), st.integers(1, 30), seeds)
def test_bands_are_runs_that_keep_their_quota_of_the_best(count, bands, kept, seed):
    tokens, attention = random(seed, 2, count, 6), random(seed + 1, 2, count).softmax(1)
    scores = band_scores(tokens, attention, bands)
    quotas = band_quotas(scores, kept)
    chosen = keep_in_bands(attention, quotas)
    assert quotas.sum(1).tolist() == [kept, kept]
    for row in range(2):
        parts = torch.arange(count).tensor_split(min(bands, count))
        expected = []
        for part, quota in zip(parts, quotas[row].tolist(), strict=True):
            ranked = part[attention[row, part].argsort(descending=True)]
            expected += part.tolist() if quota >= len(part) else ranked[:quota].tolist()
        assert chosen[row].tolist() == expected + [-1] * (count - len(expected))
    alone = band_scores(tokens[1:], attention[1:], bands)
    torch.testing.assert_close(alone[0], scores[1], atol=1e-4, rtol=1e-4)


def test_holov_keeps_real_tokens_where_its_release_has_zeros():
    tokens = random(0, 1, 32, 8)
    attention = torch.full((1, 1, 32), 1e-3)
    attention[..., :2] = 0.4  # the first band of two deserves nearly everything
    context = make_context(12, tokens=tokens, layer=0, cls_attention=attention)
    released = make_method("holov", as_released=True).select(context)
    assert (released.indices[0] < 0).sum() >= 8
    assert not released.values[0, released.indices[0] < 0].any()
    ours = make_method("holov").select(context)
    assert ours.values is None
    assert set(ours.indices[0].tolist()) >= set(released.indices[0].tolist()) - {-1}
    assert ours.indices[0].tolist() == list(range(12))  # equal attention goes to the lowest index


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20)])
def test_exact_components_are_those_of_the_full_decomposition(shape):
    tokens = random(0, 2, *shape)
    centred = torch.sigmoid(tokens.double())
    centred -= centred.mean(2, keepdim=True)
    expected = torch.linalg.svd(centred).U[..., :3].abs().float()
    torch.testing.assert_close(principal_loadings(tokens, 3), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_a_random_start_gives_what_torch_gives(shape):
    tokens = random(0, *shape)
    torch.manual_seed(5)
    expected = torch.pca_lowrank(torch.sigmoid(tokens).T, 4)[2].abs()
    start = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(principal_loadings(tokens[None], 4, start)[0], expected, atol=1e-3, rtol=1e-2)


def slow_suppression(similarity, scores, group, threshold):
    suppressed = [False] * len(scores)
    order = scores.argsort(descending=True, stable=True).tolist()
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            if not suppressed[i] and group[i] == group[j] and similarity[i, j] > threshold:
                suppressed[j] = True
    return suppressed


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.floats(-0.5, 0.9), seeds)
def test_suppression_equals_the_oracle_in_every_row(batch, count, groups, threshold, seed):
    tokens = torch.nn.functional.normalize(random(seed, batch, count, 4), dim=-1)
    similarity, scores = tokens @ tokens.mT, random(seed + 1, batch, count)
    group = random(seed + 2, batch, count).abs().mul(10).long() % groups
    thresholds = torch.full((batch,), threshold)
    found = suppress_similar(similarity, scores, group, thresholds)
    for row in range(batch):
        assert found[row].tolist() == slow_suppression(similarity[row], scores[row], group[row], threshold)


@given(st.integers(2, 40), st.integers(1, 6), seeds, st.data())
def test_groups_share_exactly_what_is_kept(count, groups, seed, data):
    kept = data.draw(st.integers(1, count - 1))
    groups = min(groups, kept)
    tokens, scores = random(seed, 2, count, 5), random(seed + 1, 2, count)
    group = random(seed + 2, 2, count).abs().mul(10).long() % groups
    chosen = keep_in_groups(tokens, scores, group, groups, kept)
    assert [len(set(row)) for row in chosen.tolist()] == [kept, kept]
    assert all(group[row, index].diff().ge(0).all() for row, index in enumerate(chosen))
    for row in range(2):  # a group that has members keeps one
        assert set(group[row].tolist()) == set(group[row, chosen[row]].tolist())


def test_limits_of_groups_rise_together_until_enough_fit():
    members, distinct = torch.tensor([[10, 10, 0, 3]]), torch.tensor([[1, 2, 0, 3]])
    quotas = group_quotas(members, distinct, kept=12, cap=5)
    assert quotas.sum() == 12
    assert (quotas <= members).all()
    assert quotas[0, 2] == 0


def test_prunesid_puts_cls_first_and_keeps_the_order_of_the_picture():
    features, cls = random(0, 2, 30, 8), random(1, 2, 8)
    attention = random(2, 2, 3, 30).softmax(2)
    vision = make_vision(features, cls_attention=attention, cls=cls)
    for kept in (1, 2, 9, 29):
        selection = make_method("prunesid").select(make_context(kept, tokens=features, layer=0, vision=vision))
        assert selection.indices.shape == (2, kept)
        assert torch.equal(selection.values[:, 0], cls)
        assert selection.indices[:, 0].tolist() == [-1, -1]
        assert selection.indices.diff(dim=1).gt(0).all()


@given(st.integers(1, 3), st.integers(1, 3), seeds)
def test_tiles_are_read_line_by_line_over_the_whole_picture(across, down, seed):
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(4 * down * 5 * across).view(down, 4, across, 5).permute(0, 2, 1, 3).reshape(-1, 20)
    chosen = torch.stack([torch.randperm(20, generator=generator)[:7] for _ in range(across * down)])
    order = tile_order(chosen[None], across, (4, 5))[0]
    assert place.gather(1, chosen).flatten()[order].diff().gt(0).all()


def test_wrong_arguments_are_named():
    with pytest.raises(TokenselError, match=r"^tiles_across=2: must divide the number of tiles, 3$"):
        tile_order(torch.zeros(1, 3, 2, dtype=torch.long), 2, (4, 4))
    with pytest.raises(TokenselError, match=r"^components=5: must be from 1 to 4$"):
        principal_loadings(torch.zeros(1, 4, 8), 5)
    with pytest.raises(TokenselError, match=r"^start: must have the shape \[4, 2\], not \[8, 2\]$"):
        principal_loadings(torch.zeros(1, 4, 8), 2, torch.zeros(8, 2))
    with pytest.raises(TokenselError, match=r"^groups=3: must be at most kept=2$"):
        keep_in_groups(torch.zeros(1, 4, 8), torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.long), 3, 2)
    with pytest.raises(TokenselError, match=r"^bands=0: must be at least 1$"):
        band_scores(torch.zeros(1, 4, 8), torch.zeros(1, 4), 0)
