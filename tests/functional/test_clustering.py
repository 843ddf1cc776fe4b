"""Selection by pairwise similarity against slow and simple oracles, and properties that hold for any input."""

import math
from decimal import Decimal
from itertools import pairwise
from operator import mul

import pytest
import torch
from helpers.choices import ROUNDING, least_gap
from hypothesis import assume, given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokensel import TokenselError
from tokensel.functional import dpc_knn, dpp_greedy, least_similar

metrics = pytest.mark.parametrize("metric", ["cosine", "euclidean"])
sizes_of = st.tuples(st.integers(1, 3), st.integers(2, 24), st.integers(0, 10_000))


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    a, b = a.tolist(), b.tolist()
    return sum(map(mul, a, b)) / max(math.hypot(*a), 1e-12) / max(math.hypot(*b), 1e-12)


def slow_distance(a, b, metric):
    return 1 - cosine(a, b) if metric == "cosine" else math.dist(a.tolist(), b.tolist()) / math.sqrt(len(a))


def slow_dpc(tokens, kept, neighbours, metric):
    """[N, D] -> centres, clusters, and whether no near-tie lets float32 choose differently."""
    count = len(tokens)
    distance = [[slow_distance(a, b, metric) for b in tokens] for a in tokens]
    others = [[j for j in range(count) if j != i] for i in range(count)]
    nearest = [sorted(distance[i][j] for j in others[i])[:neighbours] for i in range(count)]
    spread = [sum(d**2 for d in near) / len(near) for near in nearest]
    density = [Decimal(-value).exp() for value in spread]  # a float underflows at exp(-745)
    delta = []
    for i in range(count):
        denser = [j for j in others[i] if density[j] > density[i] or (density[j] == density[i] and j < i)]
        delta.append(min(distance[i][j] for j in denser) if denser else max(map(max, distance)))
    score = [rho * Decimal(d) for rho, d in zip(density, delta, strict=True)]
    centers = sorted(range(count), key=lambda i: -score[i])[:kept]
    cluster = [
        centers.index(i) if i in centers else min(range(kept), key=lambda c: distance[i][centers[c]])
        for i in range(count)
    ]
    figures = (spread, [float(value.ln()) for value in score])
    gaps = [(b - a) / max(abs(a), abs(b)) for values in figures for a, b in pairwise(sorted(values))]
    return centers, cluster, min(gaps) > 2e-5


def slow_dpp(tokens, quality, kept):
    """[N, D], [N] -> the greedy choices, and the smallest relative lead of a choice over the next best token."""
    kernel = [[quality[i] * cosine(a, b) * quality[j] for j, b in enumerate(tokens)] for i, a in enumerate(tokens)]
    kernel = torch.tensor(kernel, dtype=torch.float64)

    def minor(chosen):
        return float(kernel[chosen][:, chosen].det())

    order, gap = [], math.inf
    while len(order) < kept:
        grown = {i: minor([*order, i]) for i in range(len(tokens)) if i not in order}
        best, *rest = sorted(grown, key=lambda i: -grown[i])
        if rest:
            gap = min(gap, 1 - grown[rest[0]] / grown[best])
        order.append(best)
    return order, gap


def slow_least_similar(tokens, pivots, kept):
    pivots = pivots[:kept]
    chosen = set(pivots)
    for turn, pivot in enumerate(pivots):
        share = (kept - len(pivots)) // len(pivots) + (turn < (kept - len(pivots)) % len(pivots))
        rest = sorted(
            (i for i in range(len(tokens)) if i not in chosen), key=lambda i: cosine(tokens[pivot], tokens[i])
        )
        assume(least_gap(cosine(tokens[pivot], tokens[i]) for i in rest) > ROUNDING)
        chosen.update(rest[:share])
    return sorted(chosen)


@metrics
@given(sizes_of, st.integers(2, 30), st.sampled_from([1e-4, 1, 100]), st.data())
def test_density_peaks_equal_the_oracle_in_every_row(metric, shape, neighbours, scale, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count - 1))
    tokens = random(seed, batch, count, 6) * scale
    centers, cluster = dpc_knn(tokens, kept, neighbours, metric)
    for row in range(batch):
        *expected, decided = slow_dpc(tokens[row], kept, neighbours, metric)
        if decided:
            assert [centers[row].tolist(), cluster[row].tolist()] == expected


@metrics
def test_the_oracle_of_density_peaks_decides_most_inputs(metric):
    for scale in (1e-4, 1, 100):
        decided = [slow_dpc(random(seed, 12, 6) * scale, 4, 5, metric)[2] for seed in range(10)]
        assert sum(decided) > 7


@metrics
def test_density_peaks_find_the_groups(metric):
    middles = 10 * torch.eye(4, 8)
    truth = torch.arange(200) % 4
    tokens = (middles[truth] + 0.1 * random(0, 200, 8)).unsqueeze(0)
    centers, cluster = dpc_knn(tokens, 4, metric=metric)
    assert sorted(truth[centers[0]].tolist()) == [0, 1, 2, 3]
    assert torch.equal(truth[centers[0]][cluster[0]], truth)


@metrics
def test_of_equal_tokens_the_first_is_the_centre(metric):
    group = torch.tensor([0, 0, 1, 1, 1, 0, 2, 2, 2])
    tokens = random(0, 3, 40)[group].unsqueeze(0) * 3
    centers, cluster = dpc_knn(tokens, 3, neighbours=2, metric=metric)
    assert sorted(centers[0].tolist()) == [0, 2, 6]
    assert torch.equal(group[centers[0]][cluster[0]], group)
    more, _ = dpc_knn(tokens, 6, neighbours=2, metric=metric)
    assert sorted(more[0, :3].tolist()) == [0, 2, 6]
    assert more[0, 3:].tolist() == [1, 3, 4]


def test_equal_tokens_are_at_distance_zero_also_far_from_the_origin():
    group = torch.tensor([0, 0, 1, 1, 1, 0, 2, 2, 2])
    for seed in range(10):
        tokens = (random(seed, 3, 1000) * 3 + 20)[group].unsqueeze(0)
        centers, _ = dpc_knn(tokens, 7, neighbours=2, metric="euclidean")
        assert sorted(centers[0, :3].tolist()) == [0, 2, 6]
        assert centers[0, 3:].tolist() == [1, 3, 4, 5]


@given(st.integers(10, 60), st.integers(0, 1000))
def test_euclidean_density_peaks_do_not_depend_on_the_origin(count, seed):
    far = random(seed, 1, count, 8) + 300
    near = far - 300  # exact in float32
    if slow_dpc(near[0], 5, 5, "euclidean")[2]:
        for ours, theirs in zip(dpc_knn(far, 5, 5, "euclidean"), dpc_knn(near, 5, 5, "euclidean"), strict=True):
            assert torch.equal(ours, theirs)


@metrics
def test_density_peaks_take_5_neighbours_by_default(metric):
    tokens = random(0, 8, 60, 6)
    given_none, _ = dpc_knn(tokens, 20, metric=metric)
    assert torch.equal(given_none, dpc_knn(tokens, 20, 5, metric)[0])
    assert not torch.equal(given_none, dpc_knn(tokens, 20, 4, metric)[0])


@metrics
def test_of_two_equally_dense_tokens_the_first_is_the_centre(metric):
    for seed in range(20):
        centers, cluster = dpc_knn(random(seed, 1, 2, 300), 1, metric=metric)
        assert centers.tolist() == [[0]]
        assert cluster.tolist() == [[0, 0]]


@metrics
@given(sizes_of, st.data())
def test_density_peaks_follow_a_permutation(metric, shape, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count - 1))
    tokens = random(seed, batch, count, 6)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    if all(slow_dpc(row, kept, 5, metric)[2] for row in tokens):
        centers, cluster = dpc_knn(tokens, kept, metric=metric)
        shuffled_centers, shuffled_cluster = dpc_knn(tokens[:, order], kept, metric=metric)
        assert torch.equal(order[shuffled_centers], centers)
        assert torch.equal(shuffled_cluster, cluster[:, order])


@given(sizes_of, st.data())
def test_the_greedy_determinant_equals_the_oracle_in_every_row(shape, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, min(count, 8)))
    tokens, quality = random(seed, batch, count, 16), random(seed + 1, batch, count).sigmoid()
    ours = dpp_greedy(tokens, quality, kept)
    for row in range(batch):
        order, gap = slow_dpp(tokens[row], quality[row].tolist(), kept)
        if gap > 1e-4:
            assert ours[row].tolist() == order


def test_the_oracle_of_the_determinant_decides_most_inputs():
    decided = [slow_dpp(random(seed, 12, 16), random(seed, 12).sigmoid().tolist(), 6)[1] > 1e-4 for seed in range(10)]
    assert sum(decided) > 7


@given(sizes_of, st.data())
def test_the_greedy_determinant_follows_a_permutation_and_ignores_the_scale(shape, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, min(count, 8)))
    tokens, quality = random(seed, batch, count, 16), random(seed + 1, batch, count).sigmoid()
    order = torch.tensor(data.draw(st.permutations(range(count))))
    if all(slow_dpp(a, b.tolist(), kept)[1] > 1e-4 for a, b in zip(tokens, quality, strict=True)):
        ours = dpp_greedy(tokens, quality, kept)
        assert torch.equal(order[dpp_greedy(tokens[:, order], quality[:, order], kept)], ours)
        assert torch.equal(dpp_greedy(tokens * 7, quality * 0.01, kept), ours)


def test_without_similarity_the_determinant_ranks_by_quality():
    quality = torch.tensor([[0.2, 0.9, 0.5, 0.9, 0.1]])
    assert dpp_greedy(torch.eye(5).unsqueeze(0), quality, 5).tolist() == [[1, 3, 2, 0, 4]]


def test_once_only_duplicates_are_left_the_determinant_continues_by_index():
    group = torch.tensor([0, 0, 1, 0, 2, 1, 2, 2])
    tokens = random(0, 3, 50)[group].unsqueeze(0)
    quality = torch.tensor([[0.5, 0.5, 0.6, 0.5, 0.9, 0.6, 0.9, 0.9]])
    first = [4, 2, 0]
    assert dpp_greedy(tokens, quality, 8).tolist() == [[*first, 1, 3, 5, 6, 7]]
    flat = dpp_greedy(random(1, 1, 30, 3), torch.ones(1, 30), 30)[0].tolist()
    assert flat[3:] == sorted(flat[3:])
    tokens[:, 0] = 0
    quality[:, 2] = 0
    assert dpp_greedy(tokens, quality, 8).tolist() == [[4, 5, 1, 0, 2, 3, 6, 7]]


def exact_dpp(tokens, quality, kept):
    """The greedy choices in float64."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    kernel = quality.double()[:, None] * (unit @ unit.T) * quality.double()
    residual, columns, order = kernel.diagonal().clone(), torch.zeros(0, len(tokens), dtype=torch.float64), []
    for _ in range(kept):
        best = int(residual.argmax())
        column = (kernel[best] - columns[:, best] @ columns) / residual[best].sqrt()
        order.append(best)
        columns = torch.cat([columns, column[None]])
        residual = residual - column.square()
        residual[best] = -torch.inf
    return order


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_near_duplicates_are_told_apart_as_in_float64(spread):
    for seed in range(4):
        tokens = random(seed, 8, 64).repeat(15, 1) + spread * random(seed + 9, 120, 64)
        quality = random(seed, 120).sigmoid()
        ours = dpp_greedy(tokens[None], quality[None], 40)[0].tolist()
        assert len(set(ours) & set(exact_dpp(tokens, quality, 40))) >= 39


@pytest.mark.parametrize("size", [1, 8, 32])
def test_beyond_the_hidden_size_the_determinant_continues_by_index(size):
    tokens, quality = random(size, 1, 200, size) + 1, random(size, 1, 200).sigmoid()
    ours = dpp_greedy(tokens, quality, 60)[0].tolist()
    assert ours[:size] == exact_dpp(tokens[0], quality[0], size)
    assert ours[size:] == [index for index in range(200) if index not in ours[:size]][: 60 - size]


@given(sizes_of, st.data())
def test_least_similar_equals_the_oracle_in_every_row(shape, data):
    batch, count, seed = shape
    kept, turns = data.draw(st.integers(1, count)), data.draw(st.integers(1, count))
    tokens = random(seed, batch, count, 6)
    pivots = random(seed + 1, batch, count).argsort(1)[:, :turns]
    ours = least_similar(tokens, pivots, kept)
    for row in range(batch):
        assert ours[row].tolist() == slow_least_similar(tokens[row], pivots[row].tolist(), kept)


@given(sizes_of, st.data())
def test_least_similar_follows_a_permutation(shape, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count))
    tokens = random(seed, batch, count, 6)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    pivots = random(seed + 1, batch, count).argsort(1)[:, :3]
    for row, first in zip(tokens, pivots, strict=True):
        for pivot in first:
            assume(least_gap(cosine(row[pivot], token) for token in row) > ROUNDING)
    shuffled = least_similar(tokens[:, order], order.argsort()[pivots], kept)
    assert torch.equal(order[shuffled].sort(1).values, least_similar(tokens, pivots, kept))


def test_of_equally_similar_tokens_the_first_are_kept():
    assert least_similar(torch.ones(1, 8, 2), torch.tensor([[5, 2]]), 5).tolist() == [[0, 1, 2, 3, 5]]


@pytest.mark.parametrize(("kept", "chosen"), [(2, [0, 3]), (3, [0, 3, 4]), (4, [0, 3, 4, 5]), (5, [0, 1, 3, 4, 5])])
def test_queries_beside_the_tokens_take_their_shares_in_turn(kept, chosen):
    axes = torch.eye(6)
    queries = torch.stack([-axes[3] - axes[4], -axes[4] - axes[5]])
    assert least_similar(axes[None], torch.tensor([[0]]), kept, queries[None]).tolist() == [chosen]


def every(tokens, kept):
    """All functions of this module on one input: their indices by name."""
    quality = tokens.float().abs().sum(2)
    pivots = torch.arange(min(3, tokens.shape[1]), device=tokens.device).repeat(tokens.shape[0], 1)
    centers, cluster = dpc_knn(tokens, kept)
    far_centers, far_cluster = dpc_knn(tokens, kept, metric="euclidean")
    return {
        "centers": centers,
        "cluster": cluster,
        "far_centers": far_centers,
        "far_cluster": far_cluster,
        "determinant": dpp_greedy(tokens, quality, kept),
        "least_similar": least_similar(tokens, pivots, kept),
    }


@given(
    count=st.integers(1, 200),
    kept=st.integers(1, 220),
    kind=st.sampled_from(["plain", "duplicates", "zeros", "one zero row", "large"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 100),
)
def test_choices_are_sound_whatever_the_input(count, kept, kind, dtype, seed):
    tokens = random(seed, 2, count, 6)
    if kind == "duplicates":
        tokens = tokens[:, torch.arange(count) // 4]
    if kind == "zeros":
        tokens = tokens * 0
    if kind == "one zero row":
        tokens[:, count // 2] = 0
    if kind == "large":
        tokens = tokens * 1e4
    out = every(tokens.to(dtype), kept)
    expected = min(kept, count)
    for name, indices in out.items():
        assert indices.dtype == torch.long
        if "cluster" in name:
            assert indices.shape == (2, count)
            assert [set(row) for row in indices.tolist()] == [set(range(expected))] * 2
        else:
            assert indices.shape == (2, expected)
            assert int(indices.min()) >= 0
            assert int(indices.max()) < count
            assert all(len(set(row)) == expected for row in indices.tolist())
    for centers in ("centers", "far_centers"):
        own = out[centers.replace("centers", "cluster")].gather(1, out[centers])
        assert own.tolist() == [list(range(expected))] * 2
    assert out["least_similar"].diff(dim=1).gt(0).all()
    if kept >= count:
        for name in set(out) - {"determinant"}:
            assert out[name].tolist() == [list(range(count))] * 2


@given(st.integers(2, 90), st.integers(0, 100), st.data())
def test_a_row_of_a_batch_equals_the_row_alone(count, seed, data):
    kept = data.draw(st.integers(1, count))
    tokens = random(seed, 3, count, 160)
    together = every(tokens, kept)
    for row in range(3):
        for name, alone in every(tokens[row : row + 1], kept).items():
            assert torch.equal(together[name][row : row + 1], alone)


class Largest(TorchDispatchMode):
    """Records the number of values in the largest tensor that any operation creates."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // leaf.element_size() for leaf in tree_leaves(out)]
        self.values = max([self.values, *sizes])
        return out


def test_no_matrix_of_all_pairs_is_held():
    tokens = random(0, 1, 500, 8)
    with Largest() as seen:
        every(tokens, 20)
        dpc_knn(tokens, 499)
    assert 500 * 8 < seen.values <= 64 * 500


def test_nothing_needs_the_values_on_the_host():
    with FakeTensorMode():
        out = every(torch.empty(2, 137, 8, dtype=torch.float16), 9)
    assert out["determinant"].shape == (2, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dpc_knn(x, 0), "kept=0: must be at least 1"),
        (lambda x: dpc_knn(x, 2, neighbours=0), "neighbours=0: must be at least 1"),
        (lambda x: dpc_knn(x, 2, metric="manhattan"), "metric='manhattan': must be 'cosine' or 'euclidean'"),
        (lambda x: dpp_greedy(x, x[..., 0], 0), "kept=0: must be at least 1"),
        (lambda x: least_similar(x, torch.zeros(1, 1, dtype=torch.long), 0), "kept=0: must be at least 1"),
        (lambda x: least_similar(x, torch.zeros(1, 0, dtype=torch.long), 2), "pivots=.*at least one"),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(TokenselError, match=message):
        call(torch.ones(1, 4, 2))
