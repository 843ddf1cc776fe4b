"""Rankings: ties but for rounding go to the lowest index, whatever order the processor's rounding would give them."""

import pytest
import torch

from tokensel.functional import farthest_point_sampling, tome_centers
from tokensel.functional.indexing import first_of_best, keep_best, rank
from tokensel.functional.sampling import farthest_points
from tokensel.functional.similarity import inverse_norms

GENERATOR = torch.Generator().manual_seed(0)
LEVELS = torch.rand(3, 12, generator=GENERATOR).mul(1e-3).repeat_interleave(5, 1)  # five equal scores each


def rounded(values, size=3e-7):
    """The values with the relative noise of another processor."""
    return values * (1 + size * (2 * torch.rand(values.shape, generator=GENERATOR) - 1))


def plain_rank(scores):
    return torch.tensor([sorted(range(len(row)), key=lambda i: (-row[i], i)) for row in scores.tolist()])


@pytest.mark.parametrize("scale", [1, 1e-3, 1e4])
def test_a_ranking_does_not_hang_on_rounding(scale):
    expected = plain_rank(LEVELS)
    for _ in range(20):
        scores = rounded(LEVELS * scale)
        assert torch.equal(rank(scores), expected)
        for kept in (1, 4, 7, 30, 59, 60):
            assert torch.equal(keep_best(scores, kept), expected[:, :kept].sort(1).values)
        assert torch.equal(first_of_best(scores / scale, tolerance=1e-8)[:, 0], expected[:, 0])


def test_scores_that_differ_by_more_than_rounding_do_not_tie():
    scores = torch.linspace(1, 1 + 59 * 4e-5, 60).flip(0)[None].expand(2, -1)
    backwards = torch.arange(60).expand(2, -1)
    assert torch.equal(rank(scores), backwards)
    assert torch.equal(rank(scores.flip(1)), backwards.flip(1))
    assert torch.equal(keep_best(scores.flip(1), 9), torch.arange(51, 60).expand(2, -1))


def test_integers_and_infinite_scores_are_compared_exactly():
    scores = torch.tensor([[2_000_000, 2_000_001, 1], [5, 5, 6]])
    assert rank(scores).tolist() == [[1, 0, 2], [2, 0, 1]]
    assert keep_best(scores, 1).tolist() == [[1], [2]]
    infinite = torch.tensor([[-torch.inf, 1.0, torch.inf, torch.inf, -torch.inf, 0.0]])
    assert rank(infinite).tolist() == [[2, 3, 1, 5, 0, 4]]
    assert [keep_best(infinite, kept).tolist() for kept in (1, 2, 5)] == [[[2]], [[2, 3]], [[0, 1, 2, 3, 5]]]


def test_keep_best_takes_none_or_all():
    assert keep_best(LEVELS, 0).shape == (3, 0)
    assert torch.equal(keep_best(LEVELS, 60), torch.arange(60).expand(3, -1))


@pytest.mark.parametrize("choose", ["lazy", "reference", "tome"])
def test_searches_take_the_lowest_of_copies_that_differ_by_rounding(choose):
    once = torch.randn(2, 30, 64, generator=GENERATOR)
    copies = once.repeat(1, 3, 1)  # token i, i + 30 and i + 60 are equal

    def chosen(tokens):
        if choose == "tome":
            return tome_centers(tokens, 8)
        if choose == "lazy":
            return farthest_point_sampling(tokens, 20, 0)
        return farthest_points(tokens, inverse_norms(tokens), torch.zeros(2, 1, dtype=torch.long), 20)

    expected = chosen(once) if choose != "tome" else None
    for _ in range(10):
        found = chosen(rounded(copies, 1e-7))
        assert choose == "tome" or torch.equal(found, expected)
        assert choose != "tome" or torch.equal(found, chosen(copies))
