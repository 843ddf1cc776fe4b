"""Farthest point sampling with weights against a loop over the cosine matrix, and what weights mean at their limits."""

import pytest
import torch
from helpers.choices import clear_steps

from tokensel import TokenselError
from tokensel.functional import degrees, farthest_point_sampling, inverse_norms, sampling

STARTS = [None, 3, "medoid", "peripheral"]


def made(batch, count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, count, size, generator=generator)
    return tokens, torch.rand(batch, count, generator=generator) + 0.05


def by_hand(tokens, weights, kept, start):
    """tokens [N, D], weights [N] -> the choices, in float64."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    cosine, weights = unit @ unit.T, weights.double()
    order = [int((cosine @ weights).argmax()) if start == "medoid" else start]
    while len(order) < kept:
        order.append(int((weights * (1 - cosine[order]).amin(0)).argmax()))
    return order


@pytest.fixture(params=["lazy", "reference"])
def path(request, monkeypatch):
    """Which implementation answers."""
    if request.param == "reference":
        monkeypatch.setattr(sampling, "is_on_cpu", lambda tokens: False)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("count", "size"), [(31, 5), (200, 1400)])
@pytest.mark.parametrize("start", [3, "medoid"])
def test_each_choice_has_the_largest_product_of_weight_and_distance(count, size, start):
    tokens, weights = made(2, count, size, seed=count)
    ours = farthest_point_sampling(tokens, 20, start, weights=weights)
    for row, weight, order in zip(tokens, weights, ours, strict=True):
        steps = clear_steps(row, order, weight)
        assert steps == 20
        assert order.tolist() == by_hand(row, weight, 20, start)
    scaled = farthest_point_sampling(tokens, 20, start, weights=weights * 576)
    assert torch.equal(scaled, ours)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("start", STARTS)
def test_equal_weights_choose_what_no_weights_choose(start):
    tokens, _ = made(2, 200, 1400, seed=2)
    tokens[:, 40:] = tokens[:, :160]  # ties

    def choose(weights):
        return farthest_point_sampling(tokens, 60, start, torch.Generator().manual_seed(0), weights)

    expected = choose(None)
    for equal in (0.3, 7):
        assert torch.equal(choose(torch.full((2, 200), equal)), expected)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", [6, 1400])
def test_a_row_of_a_batch_equals_the_row_alone(size):
    tokens, weights = made(3, 200, size, seed=1)
    together = farthest_point_sampling(tokens, 30, "medoid", weights=weights)
    for index in range(3):
        alone = farthest_point_sampling(tokens[[index]], 30, "medoid", weights=weights[[index]])[0]
        steps = clear_steps(tokens[index], alone, weights[index])
        assert steps > 10
        assert torch.equal(together[index, :steps], alone[:steps])


@pytest.mark.usefixtures("path")
def test_products_within_rounding_tie_and_the_lowest_index_is_chosen():
    tokens = torch.eye(7)[None]
    weights = torch.tensor([[1.0 - 6e-8, 0.5, 1.0, 1.0, 0.5 + 6e-8, 0.25, 0.2]])
    assert weights[0, 0] < 1
    assert weights[0, 4] > 0.5
    for scale in (1, 1000):
        assert farthest_point_sampling(tokens, 6, 3, weights=weights * scale).tolist() == [[3, 0, 2, 1, 4, 5]]


@pytest.mark.usefixtures("path")
def test_a_token_of_weight_zero_is_chosen_only_when_nothing_else_is_left():
    tokens, weights = made(1, 12, 5, seed=4)
    weights[0, ::2] = 0
    chosen = farthest_point_sampling(tokens, 6, 1, weights=weights)[0]
    assert sorted(chosen.tolist()) == [1, 3, 5, 7, 9, 11]
    assert farthest_point_sampling(tokens, 3, 1, weights=weights * 0).tolist() == [[1, 0, 0]]


def test_whole_numbers_and_half_precision_are_weights_too():
    tokens, weights = made(2, 30, 8, seed=5)
    counts = (weights * 50).round().long()
    expected = farthest_point_sampling(tokens, 9, "medoid", weights=counts.float())
    assert torch.equal(farthest_point_sampling(tokens, 9, "medoid", weights=counts), expected)
    assert torch.equal(farthest_point_sampling(tokens, 9, "medoid", weights=counts.half()), expected)


def test_a_token_that_stands_for_three_is_the_medoid_of_its_copies():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    assert farthest_point_sampling(tokens, 1, "medoid").tolist() == [[2]]
    weights = torch.tensor([[9, 1, 1]])
    copies = tokens[:, [0] * 9 + [1, 2]]
    assert farthest_point_sampling(tokens, 1, "medoid", weights=weights).tolist() == [[0]]
    assert farthest_point_sampling(copies, 1, "medoid").tolist() == [[0]]
    weighted = degrees(tokens, inverse_norms(tokens), weights)
    torch.testing.assert_close(weighted, degrees(copies, inverse_norms(copies))[:, [0, 9, 10]])


@pytest.mark.parametrize("shape", [(30,), (1, 29), (2, 30), (1, 30, 1)])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(TokenselError, match=r"^weights: must be \[1, 30\], one per token, not \["):
        farthest_point_sampling(torch.randn(1, 30, 4), 3, 0, weights=torch.ones(shape))
