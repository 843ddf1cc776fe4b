"""The order of a set of integers against this Python's own sets."""

import random

import pytest
import torch

from tokensel.functional import set_order


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 7, 8, 12, 19, 20, 60])
@pytest.mark.parametrize("highest", [64, 700, 2**20])
def test_the_order_is_that_of_a_python_set(count, highest):
    draw = random.Random(count)
    rows = [draw.sample(range(highest), count) for _ in range(40)]
    order = set_order(torch.tensor(rows))
    assert [[row[i] for i in chosen] for row, chosen in zip(rows, order.tolist(), strict=True)] == [
        list(set(row)) for row in rows
    ]


def test_the_order_depends_on_the_insertion_where_values_collide():
    assert set_order(torch.tensor([[0, 8], [8, 0]])).tolist() == [[0, 1], [0, 1]]
    assert list({0, 8}) != list({8, 0})
