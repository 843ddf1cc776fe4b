"""Farthest points, medoids and aggregation against slow and simple oracles, and properties that hold for any input."""

import itertools

import pytest
import torch
from helpers.choices import clear_steps
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from tokensel import TokenselError
from tokensel.functional import (
    centers_cpu,
    cross_attention,
    degrees,
    farthest_point_sampling,
    inverse_norms,
    nearest_mean,
)
from tokensel.functional import tome_centers as tome


def cosines(tokens):
    """[N, D] -> [N, N], in float64."""
    unit = tokens.double() / tokens.double().norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit @ unit.T


def slow_fps(tokens, kept, start):
    distance = 1 - cosines(tokens)
    order = [start]
    while len(order) < kept:
        order.append(int(torch.stack([distance[i] for i in order]).amin(0).argmax()))
    return order


def slow_tome(tokens, kept, iterations=3):
    cosine = cosines(tokens)
    degree = cosine.sum(1)
    centers = sorted(range(len(tokens)), key=lambda i: -degree[i])[:kept]
    for _ in range(iterations):
        clusters = [[] for _ in centers]
        for i in range(len(tokens)):
            clusters[int(torch.stack([cosine[i, c] for c in centers]).argmax())].append(i)
        centers = [
            max(members, key=lambda i: degree[i]) if members else center
            for members, center in zip(clusters, centers, strict=True)
        ]
    return centers


def separated(tokens):
    """Whether no near-tie lets float32 and float64 choose differently."""
    cosine = cosines(tokens)
    degree = cosine.sum(1).sort().values
    apart = cosine[~torch.eye(len(tokens), dtype=torch.bool)].max() < 1 - 1e-4
    return bool(apart) and bool((degree.diff() > 1e-3).all())


@st.composite
def tokens_of(draw, largest=40, rows=3):
    """Random tokens [B, N, D]."""
    batch, count = draw(st.integers(1, rows)), draw(st.integers(2, largest))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return torch.randn(batch, count, draw(st.sampled_from([5, 16])), generator=generator)


@given(tokens_of(), st.data())
def test_fps_equals_the_oracle_in_every_row(tokens, data):
    kept = data.draw(st.integers(1, tokens.shape[1] - 1))
    start = data.draw(st.integers(0, tokens.shape[1] - 1))
    ours = farthest_point_sampling(tokens, kept, start)
    for row, order in zip(tokens, ours, strict=True):
        steps = clear_steps(row, order)
        assert order[:steps].tolist() == slow_fps(row, kept, start)[:steps]


@given(tokens_of(largest=24, rows=2), st.data())
def test_tome_equals_the_oracle_and_is_the_top_k_by_degree(tokens, data):
    kept = data.draw(st.integers(1, tokens.shape[1] - 1))
    ours = tome(tokens, kept)
    for row, order in zip(tokens, ours.tolist(), strict=True):
        if separated(row):
            assert order == slow_tome(row, kept)
            assert order == cosines(row).sum(1).topk(kept).indices.tolist()


@given(st.integers(0, 1000), st.integers(1, 30))
def test_without_parallel_rows_the_iterations_of_tome_change_nothing(seed, kept):
    tokens = torch.randn(1, 31, 8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(tome(tokens, kept, iterations=0), tome(tokens, kept, iterations=5))


@pytest.mark.parametrize("kind", ["plain", "copies", "stretched copies", "zero rows", "nearly one direction"])
@given(seed=st.integers(0, 1000), kept=st.integers(1, 30))
def test_skipping_settled_iterations_of_tome_changes_nothing(kind, seed, kept):
    generator = torch.Generator().manual_seed(seed)
    # Small integers: products and sums are exact, so ties are exact.
    tokens = torch.randint(-2, 3, (2, 31, 6), generator=generator).float()
    if kind == "copies":
        tokens = tokens[:, torch.randint(0, 31, (31,), generator=generator) // 3]
    if kind == "stretched copies":
        tokens[:, 1::2] = tokens[:, :-1:2] * 4
    if kind == "zero rows":
        tokens[:, torch.randint(0, 31, (9,), generator=generator)] = 0
    if kind == "nearly one direction":
        tokens = 1 + tokens / 4096
    with pytest.MonkeyPatch.context() as patch:
        chosen = tome(tokens, kept)
        patch.setattr(centers_cpu, "_all_different", lambda *_: False)
        rounds = tome(tokens, kept)
    assert torch.equal(chosen, rounds)


def test_a_zero_row_among_the_centres_moves_to_its_cluster():
    # The zero row is nearest to the token that opposes both other centres, not to itself.
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.4], [-1.0, -0.4]]])
    assert tome(tokens, 3).tolist() == [slow_tome(tokens[0], 3)] == [[2, 3, 0]]


def test_tome_really_moves_a_centre_when_rows_are_parallel():
    # Both initial centres are parallel; the cluster of the second is empty and keeps its centre.
    tokens = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.9, 0.1], [0.0, 1.0]]])
    assert tome(tokens, 2).tolist() == [slow_tome(tokens[0], 2)]


@given(tokens_of(), st.data())
def test_permuting_the_input_permutes_the_choice(tokens, data):
    _batch, count, _ = tokens.shape
    kept = data.draw(st.integers(1, count - 1))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    shuffled = tokens[:, order]
    start = data.draw(st.integers(0, count - 1))
    moved = order.tolist().index(start)
    fps = farthest_point_sampling(shuffled, kept, moved)
    for row, ours, theirs in zip(tokens, order[fps], farthest_point_sampling(tokens, kept, start), strict=True):
        steps = clear_steps(row, theirs)
        assert torch.equal(ours[:steps], theirs[:steps])
    if all(separated(row) for row in tokens):
        assert torch.equal(order[tome(shuffled, kept)], tome(tokens, kept))
        there = farthest_point_sampling(shuffled, kept, "medoid")
        for row, ours, theirs in zip(
            tokens, order[there], farthest_point_sampling(tokens, kept, "medoid"), strict=True
        ):
            steps = clear_steps(row, theirs)
            assert torch.equal(ours[:steps], theirs[:steps])


@given(tokens_of(largest=60), st.data())
def test_fps_minimum_distances_never_increase(tokens, data):
    kept = data.draw(st.integers(2, tokens.shape[1] - 1)) if tokens.shape[1] > 2 else 1
    for row, order in zip(tokens, farthest_point_sampling(tokens, kept, "medoid"), strict=True):
        distance = 1 - cosines(row)
        gaps = [distance[order[:i], order[i]].min() for i in range(1, kept)]
        assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(gaps))


@given(
    count=st.integers(1, 700),
    kept=st.integers(1, 760),
    kind=st.sampled_from(["plain", "duplicates", "zeros", "one zero row"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    start=st.sampled_from([None, 0, "medoid", "peripheral"]),
    seed=st.integers(0, 100),
)
def test_indices_are_in_range_whatever_the_input(count, kept, kind, dtype, start, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, count, 6, generator=generator)
    if kind == "duplicates":
        tokens = tokens[:, torch.randint(0, count, (count,), generator=generator) // 4]
    if kind == "zeros":
        tokens = tokens * 0
    if kind == "one zero row":
        tokens[:, count // 2] = 0
    tokens = tokens.to(dtype)
    for chosen in (farthest_point_sampling(tokens, kept, start, generator), tome(tokens, kept)):
        assert chosen.dtype == torch.long
        assert chosen.shape == (2, min(kept, count))
        assert int(chosen.min()) >= 0
        assert int(chosen.max()) < count
        if kept >= count:
            assert chosen.tolist() == [list(range(count))] * 2
    carried = cross_attention(tokens[:, :1], tokens)
    assert carried.dtype == dtype
    assert carried.isfinite().all()


def test_starts_mean_what_they_say():
    tokens = torch.randn(3, 50, 12, generator=torch.Generator().manual_seed(1))
    for row, medoid in zip(tokens, farthest_point_sampling(tokens, 1, "medoid"), strict=True):
        assert int(medoid) == int((1 - cosines(row)).sum(1).argmin())
    for row, outermost in zip(tokens, farthest_point_sampling(tokens, 1, "peripheral"), strict=True):
        distance = 1 - cosines(row)
        assert int(outermost) == int(distance.fill_diagonal_(torch.inf).amin(1).argmax())
    per_row = torch.tensor([4, 0, 49])
    assert torch.equal(farthest_point_sampling(tokens, 3, per_row)[:, 0], per_row)


def test_two_tokens_that_are_each_others_nearest_tie_and_the_lower_one_starts():
    for seed in range(20):
        tokens = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(seed))
        assert farthest_point_sampling(tokens, 1, "peripheral").item() == 0


def test_peripheral_sees_neighbours_across_its_blocks():
    tokens = torch.randn(1, 150, 4, generator=torch.Generator().manual_seed(3))
    tokens[0, 149] = tokens[0, 0]
    distance = (1 - cosines(tokens[0])).fill_diagonal_(torch.inf)
    assert farthest_point_sampling(tokens, 1, "peripheral").item() == distance.amin(1).argmax().item()


def test_a_random_start_follows_the_generator_and_differs_between_rows():
    tokens = torch.randn(64, 30, 4)
    first = farthest_point_sampling(tokens, 2, None, torch.Generator().manual_seed(5))
    again = farthest_point_sampling(tokens, 2, None, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert len(first[:, 0].unique()) > 5


def test_ties_go_to_the_lowest_index():
    tokens = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    assert farthest_point_sampling(tokens, 2, 0).tolist() == [[0, 1]]
    assert farthest_point_sampling(tokens, 1, "medoid").tolist() == [[1]]


@given(tokens_of(rows=2), st.sampled_from([0.05, 0.1, 1.0]))
def test_cross_attention_equals_softmax_of_cosines(tokens, temperature):
    queries = tokens[:, :3] * 2
    for row, query, ours in zip(tokens, queries, cross_attention(queries, tokens, temperature), strict=True):
        both = cosines(torch.cat([query, row]))[: len(query), len(query) :]
        expected = (both / temperature).softmax(1) @ row.double()
        torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_zero_query_carries_the_plain_mean():
    tokens = torch.randn(2, 9, 5)
    torch.testing.assert_close(cross_attention(torch.zeros(2, 1, 5), tokens), tokens.mean(1, keepdim=True))


def test_nearest_mean_averages_each_survivors_cluster():
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 0.3], [0.0, 2.0]]])
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    expected = torch.tensor([[[2.0, 0.15], [0.0, 2.0], [-1.0, 0.0]]])
    torch.testing.assert_close(nearest_mean(queries, tokens), expected)


def test_degree_is_the_row_sum_of_the_cosine_matrix():
    tokens = torch.randn(2, 40, 7)
    for row, degree in zip(tokens, degrees(tokens, inverse_norms(tokens)), strict=True):
        torch.testing.assert_close(degree.double(), cosines(row).sum(1), atol=1e-4, rtol=1e-4)


def test_no_n_by_n_matrix_is_ever_held():
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                assert result.numel() < count * count, func
            return result

    count = 512
    tokens = torch.randn(1, count, 8)
    with Watch():
        for start in (0, "medoid", "peripheral"):
            farthest_point_sampling(tokens, 16, start)
        tome(tokens, 16)


def test_nothing_needs_the_values_on_the_host():
    with FakeTensorMode():
        tokens = torch.empty(2, 137, 8, dtype=torch.float16)
        assert tome(tokens, 9).shape == (2, 9)
        for start in (None, 3, "medoid", "peripheral"):
            for weights in (None, torch.empty(2, 137)):
                assert farthest_point_sampling(tokens, 9, start, weights=weights).shape == (2, 9)


def test_cosines_that_differ_below_the_rounding_of_a_distance_tie():
    # 1 - cosine is 1 for all three in float32, though the last is least similar.
    tokens = torch.tensor([[[1.0, 0.0], [1e-9, 1.0], [0.0, 1.0], [-1e-9, 1.0]]])
    assert farthest_point_sampling(tokens, 2, 0).tolist() == [[0, 1]]
    assert farthest_point_sampling(tokens.repeat(2, 1, 1), 2, 0).tolist() == [[0, 1]] * 2


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_and_strides_change_no_choice(batch):
    hidden = torch.randn(batch, 50, 9, requires_grad=True)
    apart = hidden[:, 5:45]
    expected = farthest_point_sampling(apart.detach().clone(), 7, "medoid")
    assert torch.equal(farthest_point_sampling(apart, 7, "medoid"), expected)
    with torch.inference_mode():
        assert torch.equal(farthest_point_sampling(apart, 7, expected[:, 0].int()), expected)


@pytest.mark.parametrize("start", ["middle", -1, 30, True, 1.5])
def test_an_impossible_start_names_what_is_allowed(start):
    with pytest.raises(TokenselError, match="start="):
        farthest_point_sampling(torch.randn(1, 30, 4), 2, start)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
def test_a_temperature_not_above_zero_is_refused(temperature):
    with pytest.raises(TokenselError, match="temperature="):
        cross_attention(torch.randn(1, 2, 4), torch.randn(1, 5, 4), temperature)


def test_tome_refuses_to_keep_nothing():
    with pytest.raises(TokenselError, match="kept=0"):
        tome(torch.randn(1, 30, 4), 0)
