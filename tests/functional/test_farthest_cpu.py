"""The lazy farthest point sampling on a CPU against the reference, with pools much smaller than the tokens."""

import pytest
import torch
from helpers.choices import clear_steps
from hypothesis import given
from hypothesis import strategies as st

from tokensel.functional import farthest_cpu as farthest
from tokensel.functional import farthest_point_sampling, inverse_norms
from tokensel.functional.sampling import farthest_points

KINDS = ("scattered", "clustered", "copies", "zero rows", "all alike")


def tokens_like(kind, seed, count=90, size=12):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, count, size, generator=generator)
    if kind == "clustered":
        tokens = tokens[:, torch.randint(0, 7, (count,), generator=generator)] + 0.05 * tokens
    if kind == "copies":
        tokens = tokens[:, torch.randint(0, 20, (count,), generator=generator)]
    if kind == "zero rows":
        tokens[:, ::3] = 0
    if kind == "all alike":
        tokens = tokens[:, :1].repeat(1, count, 1)
    return tokens


def weights_like(kind, seed, count=90):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, count, generator=generator) + 0.01
    if kind == "few":
        weights[:, torch.randperm(count, generator=generator)[: count - 4]] = 0.001
    return weights.round(decimals=1) + 0.1 if kind == "steps" else weights


def lazily(tokens, start, kept, pool, first, weights=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(farthest, "POOL_VALUES", 0)
        patch.setattr(farthest, "LEAST_POOL", pool)
        patch.setattr(farthest, "FIRST_STEPS", first)
        return farthest.farthest_points(tokens, inverse_norms(tokens), start, kept, weights)


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 1000),
    kept=st.integers(2, 60),
    pool=st.sampled_from([2, 5, 17, 60, 90]),
    first=st.sampled_from([1, 8]),
)
def test_a_pool_changes_no_choice(kind, seed, kept, pool, first):
    tokens = tokens_like(kind, seed)
    start = torch.tensor([[3], [seed % 90]])
    chosen = lazily(tokens, start, kept, pool, first)
    plain = farthest_points(tokens, inverse_norms(tokens), start, kept)
    assert chosen.shape == (2, kept)
    assert torch.equal(chosen[:, :1], start)
    for row, ours, theirs in zip(tokens, chosen, plain, strict=True):
        steps = clear_steps(row, ours)
        assert torch.equal(ours[:steps], theirs[:steps])
        assert kind != "scattered" or steps > 1


@pytest.mark.parametrize("kind", ["scattered", "copies", "zero rows"])
@given(
    seed=st.integers(0, 1000),
    kept=st.integers(2, 60),
    pool=st.sampled_from([2, 17, 60, 90]),
    weighting=st.sampled_from(["any", "few", "steps"]),
)
def test_a_pool_changes_no_choice_among_weighted_tokens(kind, seed, kept, pool, weighting):
    tokens, weights = tokens_like(kind, seed), weights_like(weighting, seed)
    weights = weights / weights.amax(1, keepdim=True)
    start = torch.tensor([[3], [seed % 90]])
    chosen = lazily(tokens, start, kept, pool, 1, weights)
    plain = farthest_points(tokens, inverse_norms(tokens), start, kept, weights)
    for row, ours, theirs, weight in zip(tokens, chosen, plain, weights, strict=True):
        steps = clear_steps(row, ours, weight)
        assert torch.equal(ours[:steps], theirs[:steps])
        assert kind != "scattered" or weighting == "few" or steps > 1


def test_of_exact_ties_the_lowest_index_is_chosen_also_when_it_is_outside_the_pool():
    # Unit vectors of the axes: all are equally far from each other in any order of the arithmetic.
    tokens = torch.eye(40).unsqueeze(0)
    assert lazily(tokens, torch.tensor([[7]]), 9, pool=4, first=1).tolist() == [[7, 0, 1, 2, 3, 4, 5, 6, 8]]


def test_sampling_ends_on_tokens_that_are_nan():
    tokens = torch.full((1, 40, 8), torch.nan)
    assert lazily(tokens, torch.tensor([[5]]), 6, pool=4, first=1).shape == (1, 6)


@pytest.mark.parametrize("hidden", [32, 4096])
def test_a_large_image_gets_the_choices_of_the_reference(hidden):
    tokens = torch.randn(1, 576, hidden, generator=torch.Generator().manual_seed(1))
    assert (farthest.pool_size(576, hidden) < 576) == (hidden == 4096)
    plain = farthest_points(tokens, inverse_norms(tokens), torch.tensor([[0]]), 40)
    steps = clear_steps(tokens[0], plain[0])
    assert steps > 10
    assert torch.equal(farthest_point_sampling(tokens, 40, 0)[:, :steps], plain[:, :steps])


def test_a_row_of_a_batch_equals_the_row_alone():
    tokens = torch.randn(3, 576, 600, generator=torch.Generator().manual_seed(2))
    together = farthest_point_sampling(tokens, 48, "medoid")
    for row, chosen in zip(tokens, together, strict=True):
        alone = farthest_point_sampling(row.unsqueeze(0), 48, "medoid")[0]
        steps = clear_steps(row, alone)
        assert steps > 10
        assert torch.equal(chosen[:steps], alone[:steps])
