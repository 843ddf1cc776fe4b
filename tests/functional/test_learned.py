"""Learned cross-attention: its formula written out slowly, and that it begins as the parameter-free rule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensel.functional import (
    counted_attention,
    counted_learned_attention,
    cross_attention,
    learned_attention,
    learned_cross_attention,
)

B, N, M, D = 2, 7, 3, 12


def parameters(heads, rank=2, ups=0.5, width=D):
    def draw(*shape):
        return torch.randn(*shape)

    return {
        "query_down": draw(heads, width, rank),
        "query_up": ups * draw(heads, rank, width),
        "key_down": draw(heads, width, rank),
        "key_up": ups * draw(heads, rank, width),
        "value_down": draw(width, rank),
        "value_up": ups * draw(rank, width),
        "temperature": torch.rand(heads) + 0.1,
    }


def written_out(queries, tokens, p, width):
    """Row by row, head by head, token by token."""
    heads = len(p["temperature"])
    part, parts = width // heads, tokens.shape[2] // width
    out = torch.zeros(len(tokens), queries.shape[1], tokens.shape[2])
    for b in range(len(tokens)):
        for m in range(queries.shape[1]):
            c = queries[b, m, :width]
            for h in range(heads):
                q = c + c @ p["query_down"][h] @ p["query_up"][h]
                cosines = []
                for x in tokens[b, :, :width]:
                    k = x + x @ p["key_down"][h] @ p["key_up"][h]
                    cosines.append(torch.nn.functional.cosine_similarity(q, k, dim=0))
                weights = (torch.stack(cosines) / p["temperature"][h]).softmax(0)
                for n, weight in enumerate(weights):
                    for each in range(parts):
                        x = tokens[b, n, each * width : (each + 1) * width]
                        value = x + x @ p["value_down"] @ p["value_up"] if each == 0 else x
                        place = slice(each * width + h * part, each * width + (h + 1) * part)
                        out[b, m, place] += weight * value[h * part : (h + 1) * part]
    return out


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("features", [0, 2])
def test_it_is_its_formula(heads, features):
    tokens = torch.randn(B, N, (1 + features) * D)
    queries, p = torch.randn(B, M, (1 + features) * D), parameters(heads)
    found = learned_cross_attention(queries, tokens, **p, width=D if features else None)
    torch.testing.assert_close(found, written_out(queries, tokens, p, D), atol=1e-5, rtol=1e-5)


@given(heads=st.sampled_from([1, 2, 4]), temperature=st.sampled_from([0.05, 0.1, 1.0]), features=st.booleans())
def test_with_zero_up_projections_it_is_cross_attention(heads, temperature, features):
    tokens = torch.randn(B, N, 3 * D if features else D)
    p = parameters(heads, ups=0) | {"temperature": torch.full((heads,), temperature)}
    width = D if features else None
    found = learned_cross_attention(tokens[:, :M], tokens, **p, width=width)
    torch.testing.assert_close(found, cross_attention(tokens[:, :M], tokens, temperature, width), atol=1e-6, rtol=0)


def test_with_zero_up_projections_weights_and_counts_are_those_of_cross_attention():
    tokens, weights = torch.randn(B, N, D), torch.rand(B, N) * 9
    real = torch.tensor([[True] * M, [True] * (M - 1) + [False]])
    p = parameters(2, ups=0) | {"temperature": torch.full((2,), 0.2)}
    for more in ({}, {"weights": weights}, {"weights": weights, "real": real}):
        found = counted_learned_attention(tokens[:, :M], tokens, **p, **more)
        for one, other in zip(found, counted_attention(tokens[:, :M], tokens, 0.2, **more), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_token_of_weight_three_gathers_as_if_it_were_there_three_times():
    tokens, p = torch.randn(1, N, D), parameters(3)
    weights = torch.tensor([[1.0, 3, 0, 1, 1, 1, 1]])
    repeated = tokens[:, [0, 1, 1, 1, 3, 4, 5, 6]]
    found, counts = counted_learned_attention(tokens[:, :M], tokens, **p, weights=weights)
    torch.testing.assert_close(found, learned_cross_attention(tokens[:, :M], repeated, **p), atol=1e-5, rtol=1e-5)
    assert float(counts.sum()) == pytest.approx(float(weights.sum()), abs=1e-4)
    unequal = counted_learned_attention(tokens[:, :M], repeated, **p)[1]
    torch.testing.assert_close(counts, unequal, atol=1e-5, rtol=1e-5)


def test_the_attention_is_that_with_which_values_are_gathered():
    tokens, p = torch.randn(B, N, D), parameters(3)
    p["value_up"] = torch.zeros(2, D)
    seen = {name: value for name, value in p.items() if not name.startswith("value")}
    attention = learned_attention(tokens[:, :M], tokens, **seen)
    sliced = [attention[:, h] @ tokens[..., 4 * h : 4 * h + 4] for h in range(3)]
    found = learned_cross_attention(tokens[:, :M], tokens, **p)
    torch.testing.assert_close(found, torch.cat(sliced, -1), atol=1e-5, rtol=1e-5)


def test_half_precision_comes_back_and_is_float32_inside():
    tokens, p = torch.randn(B, N, D), parameters(2)
    half = learned_cross_attention(tokens[:, :M].bfloat16(), tokens.bfloat16(), **p)
    exact = learned_cross_attention(tokens[:, :M].bfloat16().float(), tokens.bfloat16().float(), **p)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


def test_no_survivors_give_nothing():
    tokens = torch.randn(B, N, D)
    assert learned_cross_attention(tokens[:, :0], tokens, **parameters(2)).shape == (B, 0, D)
