"""Windows of a grid, and the choice of VScan in them, against a plain walk through the tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokensel.functional import best_in_windows, grid_windows, local_global_scan


def scores_of(count, batch=2, seed=0):
    return torch.rand(batch, count, generator=torch.Generator().manual_seed(seed))


def test_windows_tile_the_grid_and_the_last_take_what_is_left_over():
    window, count = grid_windows(5, 7, 2)
    assert count == 6
    assert window.view(5, 7).tolist() == [
        [0, 0, 1, 1, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 2],
        [3, 3, 4, 4, 5, 5, 5],
        [3, 3, 4, 4, 5, 5, 5],
        [3, 3, 4, 4, 5, 5, 5],
    ]
    window, count = grid_windows(3, 2, 6)
    assert (window.tolist(), count) == ([0] * 6, 1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 81), st.integers(0, 20))
def test_tokens_are_taken_by_falling_score_while_their_window_has_room(rows, cols, side, kept, limit):
    kept = min(kept, rows * cols)
    window, count = grid_windows(rows, cols, side)
    scores = scores_of(rows * cols)
    for row, chosen in zip(scores, best_in_windows(scores, window, kept, limit).tolist(), strict=True):
        room, taken, others = [limit] * count, [], []
        for token in row.argsort(descending=True).tolist():
            if room[window[token]]:
                room[window[token]] -= 1
                taken.append(token)
            else:
                others.append(token)
        assert chosen == (taken + others)[:kept]


@pytest.mark.parametrize(("local", "everywhere"), [(16, 16), (0, 5), (7, 0), (10, 26)])
def test_the_global_scan_takes_the_best_of_what_the_local_one_left(local, everywhere):
    window, windows = grid_windows(6, 6, 3)
    near, far = scores_of(36), scores_of(36, seed=1)
    chosen, rest = local_global_scan(near, far, window, windows, local, everywhere)
    spread = best_in_windows(near, window, local, -(-local // windows))
    for row in range(2):
        left = sorted(set(range(36)) - set(spread[row].tolist()), key=lambda token: -float(far[row, token]))
        assert chosen[row].tolist() == sorted([*spread[row].tolist(), *left[:everywhere]])
        assert rest[row].tolist() == sorted(left[everywhere:])
