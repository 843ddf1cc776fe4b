"""Tokens that stand for several: as if each were there that often."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensel.functional import (
    counted_attention,
    counted_mean,
    cross_attention,
    nearest_mean,
    take,
    tome_centers,
)

WIDTH = 6  # of the 9 entries, those that are compared


def counts_of_attention(*given, **options):
    return counted_attention(*given, **options)[1]


def counts_of_nearest(*given, **options):
    return counted_mean(*given, **options)[1]


@st.composite
def weighed(draw):
    """tokens [1, N, 9], whole weights [1, N] from 1, and some of the tokens as queries."""
    count = draw(st.integers(3, 12))
    kept = draw(st.integers(1, count - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    tokens = torch.randn(1, count, 9, generator=generator)
    weights = torch.randint(1, 5, (1, count), generator=generator)
    return tokens, weights, take(tokens, torch.randperm(count, generator=generator)[None, :kept])


def repeated(tokens, weights):
    return tokens.repeat_interleave(weights[0], dim=1)


@given(weighed())
def test_a_weight_is_the_same_as_that_many_copies(given):
    tokens, weights, queries = given
    copies = repeated(tokens, weights)
    for gather in (cross_attention, nearest_mean):
        found = gather(queries, tokens, width=WIDTH, weights=weights.float())
        assert torch.allclose(found, gather(queries, copies, width=WIDTH), atol=1e-5)
    for count in (counts_of_attention, counts_of_nearest):
        found = count(queries, tokens, width=WIDTH, weights=weights.float())
        assert torch.allclose(found, count(queries, copies, width=WIDTH), rtol=1e-4)
    degrees = torch.nn.functional.normalize(copies, dim=-1)
    degrees = (torch.nn.functional.normalize(tokens, dim=-1) @ degrees.sum(1, keepdim=True).transpose(1, 2))[0, :, 0]
    if degrees.sort().values.diff().min() > 1e-3:
        expected = degrees.sort(descending=True).indices[: queries.shape[1]]
        assert torch.equal(tome_centers(tokens, queries.shape[1], weights=weights.float())[0], expected)


@given(weighed(), st.sampled_from([0.001, 0.1, 10.0]))
def test_counts_add_up_to_what_there_was(given, temperature):
    tokens, weights, queries = given
    for total, given_weights in ((tokens.shape[1], None), (int(weights.sum()), weights.float())):
        for counts in (
            counts_of_nearest(queries, tokens, weights=given_weights),
            counts_of_attention(queries, tokens, temperature, weights=given_weights),
        ):
            assert counts.sum().item() == pytest.approx(total, rel=1e-5)
            assert counts.min() >= 0


@given(weighed())
def test_weights_of_one_change_no_bit(given):
    tokens, _, queries = given
    ones = torch.ones(tokens.shape[:2])
    for gather in (cross_attention, nearest_mean, counts_of_nearest, counts_of_attention):
        assert torch.equal(gather(queries, tokens), gather(queries, tokens, weights=ones))
    assert torch.equal(cross_attention(queries, tokens), counted_attention(queries, tokens)[0])


@given(weighed())
def test_a_weight_of_zero_is_the_same_as_no_token(given):
    tokens, weights, queries = given
    weights[0, 0] = 0
    for gather in (cross_attention, nearest_mean, counts_of_attention, counts_of_nearest):
        found = gather(queries, tokens, weights=weights.float())
        assert torch.allclose(found, gather(queries, tokens[:, 1:], weights=weights[:, 1:].float()), atol=1e-5)


@given(weighed())
def test_means_of_means_are_means_of_all(given):
    """Weighted by their counts, the means of two stages are the plain means of the tokens behind them."""
    tokens, _, queries = given
    values, counts = nearest_mean(queries, tokens), counts_of_nearest(queries, tokens)
    last = values[:, : max(1, values.shape[1] // 2)]
    found = nearest_mean(last, values, weights=counts)
    totals = found * counts_of_nearest(last, values, weights=counts).unsqueeze(2)
    assert torch.allclose(totals.sum(1), tokens.sum(1), atol=1e-4)


def test_what_takes_no_part_stands_for_nothing():
    tokens = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(0))
    queries, real = tokens[:, [1, 4, 1]], torch.tensor([[True, True, False]] * 2)
    counts = counts_of_attention(queries, tokens, real=real)
    assert torch.equal(counts[:, 2], torch.zeros(2))
    assert torch.allclose(counts[:, :2], counts_of_attention(queries[:, :2], tokens))


def test_a_token_counts_for_the_centre_that_gathers_it_most():
    tokens = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.95, 0.02], [0.0, 1.0]]])
    queries = tokens[:, [0, 3]]
    assert counts_of_nearest(queries, tokens).tolist() == [[3.0, 1.0]]
    sharp = counts_of_attention(queries, tokens, 0.01)[0]
    assert sharp.tolist() == pytest.approx([3.0, 1.0], abs=1e-3)
    even = counts_of_attention(queries, tokens, 100.0)[0]  # everyone gathers everything
    assert even.tolist() == pytest.approx([2.0, 2.0], abs=0.05)
