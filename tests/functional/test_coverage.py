"""Greedy coverage and the removal of duplicates against slow and simple oracles, in every row of a batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensel import TokenselError
from tokensel.functional import greedy_coverage, remove_duplicates

seeds = st.integers(0, 10_000)


def slow_coverage(affinity, kept, weight, combined):
    """[N, R], [N] -> the greedy choices, and the smallest relative lead of one over the next best."""
    affinity, weight = affinity.double(), weight.double()
    order, lead = [], 1.0
    while len(order) < kept:
        covered = affinity[order].amax(0).clamp_min(0) if order else torch.zeros(affinity.shape[1]).double()
        score = {}
        for candidate in set(range(len(affinity))) - set(order):
            gain = float((affinity[candidate] - covered).clamp_min(0).sum())
            score[candidate] = gain * weight[candidate] if combined == "multi" else gain + weight[candidate]
        best, *rest = sorted(score, key=lambda j: -score[j])
        if rest:
            lead = min(lead, float(1 - score[rest[0]] / score[best]))
        order.append(best)
    return order, lead


@given(st.sampled_from(["multi", "add"]), st.integers(1, 3), st.integers(2, 12), st.integers(1, 9), seeds)
def test_coverage_equals_the_oracle_in_every_row(combined, batch, count, items, seed):
    generator = torch.Generator().manual_seed(seed)
    affinity = torch.randn(batch, count, items, generator=generator)
    weight = torch.rand(batch, count, generator=generator) + 0.1
    kept = min(count, 3)
    chosen = greedy_coverage(affinity, kept, weight, combined)
    for row in range(batch):
        expected, lead = slow_coverage(affinity[row], kept, weight[row], combined)
        if lead > 1e-4:
            assert chosen[row].tolist() == expected


def test_without_anything_left_to_gain_the_lowest_indices_follow():
    affinity = torch.eye(6)[[0, 1, 0, 1, 2, 0]].unsqueeze(0)
    weight = torch.tensor([[1.0, 3, 5, 1, 2, 1]])
    assert greedy_coverage(affinity, 6, weight).tolist() == [[2, 1, 4, 0, 3, 5]]
    noisy = affinity + 1e-7 * torch.randn(affinity.shape, generator=torch.Generator().manual_seed(0))
    assert greedy_coverage(noisy, 6, weight, noise=1e-6).tolist() == [[2, 1, 4, 0, 3, 5]]


def slow_removal(unit, order, kept, step):
    order = list(order)
    while len(order) > kept:
        even, odd = order[::2], order[1::2]
        closest = {i: max(float(unit[i] @ unit[j]) for j in odd) for i in even}
        leaving = min(step, len(order) - kept, len(even))
        order = sorted(even, key=lambda i: -closest[i])[leaving:] + odd
    return order


@given(st.integers(1, 3), st.integers(2, 40), st.integers(1, 10), seeds, st.data())
def test_removal_of_duplicates_equals_the_oracle_in_every_row(batch, count, step, seed, data):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, count, 8, generator=generator)
    order = torch.rand(batch, count, generator=generator).argsort(1)[:, : data.draw(st.integers(1, count))]
    kept = data.draw(st.integers(0, order.shape[1]))
    left = remove_duplicates(tokens, order, kept, step)
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    for row in range(batch):
        expected = slow_removal(unit[row], order[row].tolist(), kept, step) if kept else []
        assert left[row].tolist() == expected


def test_wrong_arguments_are_named():
    with pytest.raises(TokenselError, match=r"^combined='sum': must be one of multi, add$"):
        greedy_coverage(torch.zeros(1, 2, 2), 1, combined="sum")
    with pytest.raises(TokenselError, match=r"^kept=0: must be at least 1$"):
        greedy_coverage(torch.zeros(1, 2, 2), 0)
    with pytest.raises(TokenselError, match=r"^step=0: must be at least 1$"):
        remove_duplicates(torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.long), 1, step=0)
