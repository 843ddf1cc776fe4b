"""Merging against the originals' reference vectors, slow and simple oracles, and properties that hold for any input."""

import json
import math
from functools import cache
from operator import mul
from pathlib import Path

import pytest
import torch
from helpers.choices import ROUNDING, least_gap
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch._subclasses import FakeTensorMode

from tokensel import TokenselError
from tokensel.functional import bipartite_soft_matching, contextual_tokens, soft_merge, weighted_merge

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
CASES = [case for case in MANIFEST["cases"] if case["group"] == "C_tome"]


@cache
def file(name):
    return load_file(GOLDEN / name)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_matching_equals_the_original_tome(case):
    theirs = {name: file(entry["file"])[entry["key"]] for name, entry in case["tensors"].items()}
    params = case["params"]
    merge = bipartite_soft_matching(theirs["metric"], params["r"], class_token=params["class_token"])
    ours = dict(zip(("merged", "size"), merge(theirs["x"]), strict=True))
    if "size_in" in theirs:
        ours |= zip(("merged_sized", "size_sized"), merge(theirs["x"], theirs["size_in"]), strict=True)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=0)
    if case.get("index_stable", False):
        assert merge.assign[0].tolist() == theirs["assign"].tolist()
    assert merge.positions.shape[1] == params["N"] - params["r_effective"]


def test_the_reference_has_all_cases_of_tome():
    assert len(CASES) == 18


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    a, b = a.tolist(), b.tolist()
    return sum(map(mul, a, b)) / max(math.hypot(*a), 1e-12) / max(math.hypot(*b), 1e-12)


def slow_tome(metric, r):
    """[N, D] -> the outputs of ToMe as lists of merged tokens; each list begins with the output's position."""
    even, odd = range(0, len(metric), 2), range(1, len(metric), 2)
    partner = {i: max(odd, key=lambda j: cosine(metric[i], metric[j])) for i in even} if len(metric) > 1 else {0: 0}
    ranked = sorted(even, key=lambda i: -cosine(metric[i], metric[partner[i]]))
    return [[i] for i in ranked[r:]] + [[j] + [i for i in ranked[:r] if partner[i] == j] for j in odd]


def tome_gap(metric):
    """The smallest difference between two similarities that `slow_tome` compares."""
    rows = [[cosine(token, other) for other in metric[1::2]] for token in metric[::2]]
    bests = [sorted(row)[-2:] for row in rows if row]
    return min(map(least_gap, [*bests, [best[-1] for best in bests]]))


def slow_mean(rows, sizes, members):
    weights = sizes[members].double()
    return (rows[members].double() * weights).sum(0) / weights.sum()


def slow_soft_merge(metric, tokens, kept):
    """The groups of merged tokens by position, and their means; each list begins with the group's position.

    Gives up where two similarities that it compares are all but equal.
    """
    groups = [[i] for i in range(len(metric))]
    while len(groups) > kept:
        means = torch.stack([metric[group].double().mean(0) for group in groups])
        assume(tome_gap(means) > ROUNDING)
        rows = slow_tome(means, min(len(groups) - kept, len(groups) // 2))
        groups = sorted([i for part in row for i in groups[part]] for row in rows)
    return groups, torch.stack([tokens[group].double().mean(0) for group in groups])


def slow_contextual(tokens, keys, count):
    step = max(1, len(tokens) // count)
    targets = list(range(0, len(tokens), step))[:count]
    members = {target: [] for target in targets}
    for i in range(len(tokens)):
        if i not in members:
            assume(least_gap(sorted(cosine(keys[i], keys[t]) for t in targets)[-2:]) > ROUNDING)
            members[max(targets, key=lambda t: cosine(keys[i], keys[t]))].append(i)
    values = [tokens[t] + tokens[who].mean(0) if who else tokens[t] for t, who in members.items()]
    return targets, torch.stack(values)


def slow_weighted(tokens, keys, weights, positions, neighbours):
    values = []
    for position in positions.tolist():
        others = sorted(
            (i for i in range(len(tokens)) if i != position), key=lambda i: -cosine(keys[position], keys[i])
        )
        values.append(tokens[position] + sum(weights[i] * tokens[i] for i in others[:neighbours]))
    return torch.stack(values)


sizes_of = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(0, 10_000))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=1e-5, rtol=1e-5)


@given(sizes_of, st.integers(-1, 15), st.booleans())
def test_matching_equals_the_oracle_in_every_row(shape, r, sized):
    batch, count, seed = shape
    metric, x = random(seed, batch, count, 6), random(seed + 1, batch, count, 4)
    size = random(seed + 2, batch, count, 1).abs() + 0.5
    assume(all(tome_gap(row) > ROUNDING for row in metric))
    merge = bipartite_soft_matching(metric, r)
    merged, added = merge(x, size) if sized else merge(x)
    for row in range(batch):
        r = max(0, min(r, count // 2))
        groups = slow_tome(metric[row], r) if r else [[i] for i in range(count)]
        assert merge.positions[row].tolist() == [group[0] for group in groups]
        assert [merge.assign[row].eq(i).nonzero().flatten().tolist() for i in range(len(groups))] == [
            sorted(group) for group in groups
        ]
        weights = size[row] if sized else torch.ones(count, 1)
        close(merged[row], torch.stack([slow_mean(x[row], weights, group) for group in groups]))
        close(added[row], torch.stack([weights[group].sum(0) for group in groups]))


def test_a_class_token_stays_first_and_unmerged():
    metric = random(0, 2, 9, 4)
    metric[:, 0] = metric[:, 1]  # the most similar pair
    merge = bipartite_soft_matching(metric, 9, class_token=True)
    assert merge.positions[:, 0].tolist() == [0, 0]
    assert (merge.assign == 0).sum(1).tolist() == [1, 1]
    assert merge.positions.shape == (2, 5)
    assert bipartite_soft_matching(metric, 9).positions.shape == (2, 5)
    assert bipartite_soft_matching(metric[:, :8], 9, class_token=True).positions.shape == (2, 5)
    few = bipartite_soft_matching(metric, 2, class_token=True)
    assert few.positions[:, :3].diff().gt(0).all()


def test_equally_similar_pairs_merge_in_the_order_of_their_tokens():
    merge = bipartite_soft_matching(torch.ones(1, 8, 3), 2)
    assert merge.positions.tolist() == [[4, 6, 1, 3, 5, 7]]
    assert merge.assign.tolist() == [[2, 2, 2, 3, 0, 4, 1, 5]]


@given(sizes_of, st.data())
def test_soft_merge_equals_the_oracle_in_every_row(shape, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count + 2))
    metric, tokens = random(seed, batch, count, 6), random(seed + 1, batch, count, 4)
    positions, values, sizes = soft_merge(metric, tokens, kept)
    assert values.shape == (batch, min(kept, count), 4)
    for row in range(batch):
        groups, means = slow_soft_merge(metric[row], tokens[row], kept)
        assert positions[row].tolist() == [group[0] for group in groups]
        assert sizes[row].tolist() == [len(group) for group in groups]
        close(values[row], means)


@given(sizes_of, st.data())
def test_contextual_tokens_equal_the_oracle_in_every_row(shape, data):
    batch, rest, seed = shape
    count = data.draw(st.integers(1, rest + 2))
    tokens, keys = random(seed, batch, rest, 4), random(seed + 1, batch, rest, 6)
    positions, values = contextual_tokens(tokens, keys, count)
    for row in range(batch):
        targets, expected = slow_contextual(tokens[row], keys[row], count)
        assert positions[row].tolist() == targets
        close(values[row], expected)


@given(sizes_of, st.integers(1, 30), st.data())
def test_weighted_merge_equals_the_oracle_in_every_row(shape, neighbours, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count))
    tokens, keys = random(seed, batch, count, 4), random(seed + 1, batch, count, 6)
    weights = random(seed + 2, batch, count).softmax(1)
    positions = torch.stack(
        [torch.randperm(count, generator=torch.Generator().manual_seed(i))[:kept] for i in range(batch)]
    )
    values = weighted_merge(tokens, keys, weights, positions, neighbours)
    for row in range(batch):
        close(values[row], slow_weighted(tokens[row], keys[row], weights[row], positions[row], neighbours))


def test_weighted_merge_takes_32_neighbours_by_default():
    tokens, weights = torch.ones(1, 50, 2), torch.ones(1, 50)
    assert weighted_merge(tokens, tokens, weights, torch.tensor([[7]])).tolist() == [[[33.0, 33.0]]]


def test_of_equally_similar_neighbours_the_first_are_merged():
    tokens = 2.0 ** torch.arange(6).view(1, 6, 1)
    values = weighted_merge(tokens, torch.ones(1, 6, 3), torch.ones(1, 6), torch.tensor([[1, 4]]), neighbours=2)
    assert values.tolist() == [[[2.0 + 1 + 4], [16.0 + 1 + 2]]]


@given(sizes_of, st.data())
def test_permuting_tokens_that_are_not_targets_changes_no_contextual_token(shape, data):
    batch, rest, seed = shape
    count = data.draw(st.integers(1, rest))
    tokens, keys = random(seed, batch, rest, 4), random(seed + 1, batch, rest, 6)
    positions, values = contextual_tokens(tokens, keys, count)
    others = [i for i in range(rest) if i not in positions[0].tolist()]
    order = torch.arange(rest)
    order[others] = torch.tensor(data.draw(st.permutations(others)), dtype=torch.long)
    close(contextual_tokens(tokens[:, order], keys[:, order], count)[1], values)


@given(sizes_of, st.data())
def test_weighted_merge_does_not_depend_on_the_order_of_the_tokens(shape, data):
    batch, count, seed = shape
    tokens, keys, weights = random(seed, batch, count, 4), random(seed + 1, batch, count, 6), random(seed, batch, count)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    positions = torch.arange(count).repeat(batch, 1)
    shuffled = weighted_merge(tokens[:, order], keys[:, order], weights[:, order], positions, neighbours=3)
    close(shuffled, weighted_merge(tokens, keys, weights, positions, neighbours=3)[:, order])


def every(tokens, keys, kept):
    """All functions of this module on one input: their tensors by name."""
    count = tokens.shape[1]
    merge = bipartite_soft_matching(keys, count - kept)
    positions, values, sizes = soft_merge(keys, tokens, kept)
    targets, context = contextual_tokens(tokens, keys, kept)
    matched, added = merge(tokens)
    weighted = weighted_merge(tokens, keys, keys.float().abs().sum(2), targets)
    return {
        "values": {"matched": matched, "soft": values, "context": context, "weighted": weighted},
        "sizes": {"matched": added, "soft": sizes},
        "indices": {"assign": merge.assign, "standing": merge.positions, "positions": positions, "targets": targets},
    }


@given(
    count=st.integers(1, 200),
    kept=st.integers(1, 220),
    kind=st.sampled_from(["plain", "duplicates", "zeros", "one zero row"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 100),
)
def test_results_are_sound_whatever_the_input(count, kept, kind, dtype, seed):
    tokens = random(seed, 2, count, 6)
    if kind == "duplicates":
        tokens = tokens[:, torch.arange(count) // 4]
    if kind == "zeros":
        tokens = tokens * 0
    if kind == "one zero row":
        tokens[:, count // 2] = 0
    out = every(tokens.to(dtype), tokens.to(dtype), kept)
    for values in out["values"].values():
        assert values.dtype == dtype
        assert values.isfinite().all()
    for sizes in out["sizes"].values():
        assert sizes.dtype == torch.float32
        assert sizes.flatten(1).sum(1).tolist() == [count, count]
    for name, indices in out["indices"].items():
        assert indices.dtype == torch.long
        assert int(indices.min()) >= 0
        assert int(indices.max()) < count
        if name in ("positions", "targets"):
            assert indices.shape == (2, min(kept, count))
            assert indices.diff(dim=1).gt(0).all()
    assert all(len(set(row)) == len(row) for row in out["indices"]["standing"].tolist())
    if kept >= count:
        assert torch.equal(out["values"]["soft"], tokens.to(dtype))
        assert torch.equal(out["values"]["matched"], tokens.to(dtype))
        assert torch.equal(out["values"]["context"], tokens.to(dtype))


@given(sizes_of, st.data())
def test_merging_keeps_the_sum_of_what_the_tokens_carry(shape, data):
    batch, count, seed = shape
    tokens = random(seed, batch, count, 4)
    positions, values, sizes = soft_merge(tokens, tokens, data.draw(st.integers(1, count)))
    close((values * sizes.unsqueeze(2)).sum(1), tokens.sum(1))
    assert positions.shape == sizes.shape


@given(sizes_of, st.data())
def test_a_row_of_a_batch_equals_the_row_alone(shape, data):
    _, count, seed = shape
    kept = data.draw(st.integers(1, count))
    tokens, keys = random(seed, 3, count, 16), random(seed + 1, 3, count, 6)
    together = every(tokens, keys, kept)
    for row in range(3):
        alone = every(tokens[row : row + 1], keys[row : row + 1], kept)
        for kind, group in together.items():
            for name, value in group.items():
                if kind == "indices":
                    assert torch.equal(value[row : row + 1], alone[kind][name])
                else:
                    close(value[row : row + 1], alone[kind][name])


def test_half_precision_is_summed_in_float32():
    tokens = torch.full((1, 4097, 1), 1.0, dtype=torch.bfloat16)
    tokens[:, 0] = 2.0
    _, values, sizes = soft_merge(tokens, tokens, 1)
    assert sizes.tolist() == [[4097.0]]
    assert values.dtype == torch.bfloat16
    assert float(values) == 1.0


def test_nothing_needs_the_values_on_the_host():
    with FakeTensorMode():
        out = every(torch.empty(2, 37, 8, dtype=torch.float16), torch.empty(2, 37, 6), 9)
    assert out["values"]["soft"].shape == (2, 9, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: soft_merge(x, x, 0), "kept=0: must be at least 1"),
        (lambda x: contextual_tokens(x, x, 0), "count=0: must be at least 1"),
        (
            lambda x: weighted_merge(x, x, x[..., 0], torch.zeros(1, 1, dtype=torch.long), 0),
            "neighbours=0: must be at least 1",
        ),
    ],
)
def test_a_count_below_one_is_refused(call, message):
    with pytest.raises(TokenselError, match=message):
        call(torch.ones(1, 4, 2))
