"""PruMerge's outliers, strides and merging against slow and simple oracles, and properties that hold for any input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from tokensel import TokenselError
from tokensel.functional import (
    insert_last,
    kept_outliers,
    merge_outliers,
    outlier_counts,
    outliers_at_stride,
    rank,
    weighted_merge,
)

sizes_of = st.tuples(st.integers(1, 3), st.integers(4, 80), st.integers(0, 10_000))


def attention(seed, batch, count, peak=3.0):
    return (peak * torch.randn(batch, count, generator=torch.Generator().manual_seed(seed))).softmax(1)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_choice(scores, outliers, times=3):
    """What the release chooses for a given number of outliers, in its order: [N] -> indices."""
    count = len(scores)
    best = rank(scores.unsqueeze(0))[0, : int(count * (outliers / count))].tolist()
    step = max(1, int(int(1 / (outliers / count)) / times))
    return best + [i for i in range(0, count - 1, step) if i not in best]


@given(sizes_of)
def test_outliers_are_what_numpys_percentiles_say(shape):
    scores = attention(shape[2], *shape[:2])
    for found, row in zip(outlier_counts(scores).tolist(), scores.numpy(), strict=True):
        first, third = np.percentile(row, [25, 75])
        number = int((row > third + 1.5 * (third - first)).sum())
        assert found == number
        assert int(kept_outliers(torch.tensor(number), len(row))) == int(len(row) * (number / len(row)))


def test_a_share_that_floating_point_makes_smaller_loses_an_outlier_as_in_the_release():
    scores = torch.ones(1, 196) / 196
    scores[:, :32] = 1  # 196 * (32 / 196) is just below 32
    assert kept_outliers(outlier_counts(scores), 196).tolist() == [31]


@given(sizes_of, st.data())
def test_a_rows_own_outliers_give_the_release_s_choice(shape, data):
    batch, count, seed = shape
    scores = attention(seed, batch, count)
    outliers = torch.tensor(data.draw(st.lists(st.integers(1, count // 4), min_size=batch, max_size=batch)))
    indices, counts = outliers_at_stride(scores, count - 1, 3, outliers)
    assert indices.shape == (batch, count - 1)
    for row in range(batch):
        expected = slow_choice(scores[row], int(outliers[row]))
        if len(expected) < count:
            assert indices[row, : int(counts[row])].tolist() == expected


@given(sizes_of, st.integers(1, 5), st.data())
def test_kept_is_the_total_and_a_total_of_the_release_gives_its_choice(shape, times, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count - 1))
    scores = attention(seed, batch, count)
    indices, counts = outliers_at_stride(scores, kept, times)
    assert counts.tolist() == [kept] * batch
    for row, chosen in enumerate(indices.tolist()):
        assert len(set(chosen)) == kept
        released = [set(slow_choice(scores[row], number, times)) for number in range(1, kept + 1)]
        exact = [each for each in released if len(each) == kept]
        assert not exact or set(chosen) == exact[-1]
        fitting = [each for each in released if len(each) <= kept]
        best = rank(scores[row : row + 1])[0].tolist()
        filled = (fitting[-1] if fitting else set()) | set(best[:kept])
        assert set(chosen) <= filled


@pytest.mark.parametrize("kept", [64, 128, 192])
def test_about_three_quarters_of_the_usual_budgets_stand_at_the_stride(kept):
    indices, _ = outliers_at_stride(attention(0, 4, 576), kept)
    for row in indices.tolist():
        step = next(step for step in range(1, 576) if set(range(0, 575, step)) <= set(row))
        assert 0.7 < len(range(0, 575, step)) / kept < 0.85


def test_more_outliers_than_kept_allows_are_cut_to_what_it_allows():
    scores = attention(3, 2, 100)
    cut, counts = outliers_at_stride(scores, 30, 3, torch.tensor([25, 5]))
    assert torch.equal(cut[0], outliers_at_stride(scores, 30)[0][0])
    assert counts[0] == 30
    assert cut[1, : counts[1]].tolist() == slow_choice(scores[1], 5)


@given(sizes_of, st.integers(1, 40), st.data())
def test_merging_equals_the_oracle_also_where_rows_choose_fewer(shape, neighbours, data):
    batch, count, seed = shape
    kept = data.draw(st.integers(1, count - 1))
    tokens, keys, weights = (
        random(seed, batch, count, 4),
        random(seed + 1, batch, count, 6),
        attention(seed, batch, count),
    )
    positions = rank(random(seed + 2, batch, count))[:, :kept]
    counts = torch.tensor(data.draw(st.lists(st.integers(0, kept), min_size=batch, max_size=batch)))
    values = merge_outliers(tokens, keys, weights, positions, neighbours, counts)
    assert values.shape == (batch, kept + 1, 4)
    whole = merge_outliers(tokens, keys, weights, positions, neighbours)
    for row in range(batch):
        number, chosen = int(counts[row]), positions[row].tolist()
        expected = weighted_merge(*(each[row : row + 1] for each in (tokens, keys, weights, positions)), neighbours)[0]
        torch.testing.assert_close(values[row, :number], expected[:number], atol=1e-5, rtol=1e-5)
        for found, left_out in ((values[row, number], chosen[:number]), (whole[row, kept], chosen)):
            others = [i for i in range(count) if i not in left_out]
            rest = (weights[row, others, None].double() * tokens[row, others].double()).sum(0)
            torch.testing.assert_close(found, rest.float(), atol=1e-5, rtol=1e-5)


def test_a_token_chosen_twice_is_its_own_neighbour_and_the_first_others_count_nowhere():
    tokens = 2.0 ** torch.arange(6).view(1, 6, 1)
    keys = torch.eye(6).unsqueeze(0)
    values = merge_outliers(tokens, keys, torch.ones(1, 6), torch.tensor([[3, 3, 5]]), neighbours=1)
    # Unchosen are 0, 1, 2 and 4; 0 counts nowhere. The neighbour of 5 is the first of equally dissimilar ones.
    assert values.flatten().tolist() == [8.0 + 8, 8.0 + 8, 32.0 + 8, 2.0 + 4 + 16]


def test_a_last_entry_stands_behind_the_entries_that_count():
    rows = torch.arange(6).view(2, 3)
    assert insert_last(rows, torch.full((2, 1), -1), torch.tensor([3, 1])).tolist() == [[0, 1, 2, -1], [3, -1, 5, -1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_merged_in_float32(dtype):
    tokens = torch.ones(1, 3000, 1, dtype=dtype)
    values = merge_outliers(tokens, tokens, torch.ones(1, 3000), torch.tensor([[0]]), neighbours=1)
    assert values.dtype == dtype
    assert math.isclose(float(values[0, 1]), 2999, rel_tol=1e-2)


def test_nothing_needs_the_values_on_the_host():
    with FakeTensorMode():
        scores, tokens = torch.empty(2, 37), torch.empty(2, 37, 8)
        indices, counts = outliers_at_stride(scores, 9, 3, outlier_counts(scores))
        assert merge_outliers(tokens, tokens, scores, indices, 32, counts).shape == (2, 10, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scores: outliers_at_stride(scores, 0), "kept=0: must be at least 1"),
        (lambda scores: outliers_at_stride(scores, 2, 0), "times=0: must be at least 1"),
    ],
)
def test_a_count_below_one_is_refused(call, message):
    with pytest.raises(TokenselError, match=message):
        call(torch.ones(1, 4))


@pytest.mark.parametrize("count", [1, 2, 5, 36, 577])
def test_quartiles_are_torchs(count):
    scores = torch.randn(6, count, generator=torch.Generator().manual_seed(count)).exp()
    first, third = scores.quantile(torch.tensor([0.25, 0.75]), dim=1, keepdim=True)
    assert torch.equal(outlier_counts(scores), (scores > third + 1.5 * (third - first)).sum(1))
