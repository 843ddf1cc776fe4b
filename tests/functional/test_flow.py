"""FlowCut's score and its number of dropped tokens, against plain loops in float64."""

import math

import pytest
import torch

from tokensel.functional import drop_count, token_importance


def parts(batch=2, count=9, heads=4, key_heads=2, width=8):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, width), (batch, count, key_heads, width), (batch, key_heads, width)]
    query, keys, value = (torch.randn(shape, generator=generator) for shape in shapes)
    return query, keys, value, torch.randn(shapes[1], generator=generator)


@pytest.mark.parametrize(("skipped", "agreement"), [(0, 0.3), (1, 1.0)])
def test_the_score_is_attention_and_agreement_times_size(skipped, agreement):
    query, keys, value, values = parts()
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[1, 4:6] = False
    scores, attention = token_importance(query, keys, value, values, seen, skipped=skipped, agreement=agreement)
    for row in range(2):
        there = [token for token in range(9) if seen[row, token]]
        k, v = keys[row, there].double(), values[row, there].double()
        attends = torch.stack(
            [(k[:, head // 2] @ query[row, head].double() / math.sqrt(8)).softmax(0) for head in range(4)]
        ).mean(0)
        agrees = torch.stack([(agreement * (v[:, head] @ value[row, head].double())).softmax(0) for head in range(2)])
        attends, agrees = (each[skipped:] / each[skipped:].sum() for each in (attends, agrees.mean(0)))
        expected = (attends + agrees) * v[skipped:].mean(1).abs().sum(1)
        places = [token - skipped for token in there[skipped:]]
        torch.testing.assert_close(scores[row, places].double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attention[row, places].double(), attends, atol=1e-6, rtol=1e-5)
    gone = [4 - skipped, 5 - skipped]
    assert scores[1, gone].tolist() == attention[1, gone].tolist() == [0, 0]


def test_even_attention_drops_nothing_and_a_single_peak_the_most():
    even, peak = torch.full((1, 16), 1 / 16), torch.eye(16)[:1]
    left = torch.tensor([[16.0], [16.0]])
    assert drop_count(torch.cat([even, peak]), left, kept=4, rest=4).tolist() == [[0], [6]]
    # Half to even, as Python rounds: 5 / 2 and 7 / 2.
    assert drop_count(peak, torch.tensor([[9.0]]), kept=4, rest=4).item() == 2
    assert drop_count(peak, torch.tensor([[11.0]]), kept=4, rest=4).item() == 4


def test_an_attention_of_exactly_zero_counts_as_none():
    attention = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    evenness = math.log(2) / math.log(4)
    expected = round((4 - 1) / 1 * (1 - evenness**2))
    assert drop_count(attention, torch.tensor([[4.0]]), kept=1, rest=1).item() == expected


def test_one_token_left_gives_a_finite_count():
    assert drop_count(torch.ones(1, 1), torch.tensor([[1.0]]), kept=1, rest=2).item() == 0
