"""Cells of a grid: exactly `kept`, rectangular, square and even; and the tokens in their middles."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tokensel import TokenselError
from tokensel.functional import cell_centers, grid_cells
from tokensel.functional.cells import _banded

grids = st.tuples(st.integers(1, 26), st.integers(1, 26)).flatmap(
    lambda size: st.tuples(*map(st.just, size), st.integers(1, size[0] * size[1]))
)


def extents(rows, cols, kept):
    """The rows and the columns of every cell, as lists."""
    cells = grid_cells(rows, cols, kept).view(rows, cols)
    for cell in range(int(cells.max()) + 1):
        inside = (cells == cell).nonzero()
        yield inside, sorted(set(inside[:, 0].tolist())), sorted(set(inside[:, 1].tolist()))


@given(grids)
@example((4, 4, 15))
@example((24, 24, 500))
@example((24, 24, 575))
@example((1, 26, 25))
def test_cells_are_exactly_kept_non_empty_rectangles(grid):
    rows, cols, kept = grid
    cells = grid_cells(*grid)
    assert cells.shape == (rows * cols,)
    assert cells.dtype == torch.long
    assert set(cells.tolist()) == set(range(kept))
    corners = []
    for inside, down, across in extents(*grid):
        assert down == list(range(down[0], down[-1] + 1))
        assert across == list(range(across[0], across[-1] + 1))
        assert len(inside) == len(down) * len(across)
        corners.append((down[0], across[0]))
    assert corners == sorted(corners)


@pytest.mark.parametrize(("rows", "cols"), [(4, 2), (4, 4), (7, 3), (3, 7), (9, 5)])
def test_with_any_number_of_bands_the_cells_cover_the_grid_and_none_is_empty(rows, cols):
    for kept in range(1, rows * cols + 1):
        for bands in range(-(-kept // cols), min(rows, kept) + 1):
            boxes = _banded(rows, cols, kept, bands)
            areas = [(box.bottom - box.top) * (box.right - box.left) for box in boxes]
            assert len(areas) == kept
            assert min(areas) > 0
            assert sum(areas) == rows * cols
            assert boxes[-1].bottom == rows


@given(grids)
@example((4, 4, 15))
@example((24, 24, 500))
def test_centres_are_the_middles_of_their_cells(grid):
    _, cols, kept = grid
    centers = cell_centers(*grid)
    assert centers.dtype == torch.long
    assert grid_cells(*grid)[centers].tolist() == list(range(kept))
    for center, (_, down, across) in zip(centers.tolist(), extents(*grid), strict=True):
        row, col = divmod(center, cols)
        assert row == down[(len(down) - 1) // 2]
        assert col == across[(len(across) - 1) // 2]


@pytest.mark.parametrize(
    ("rows", "cols", "down", "across"),
    [(24, 24, n, n) for n in (1, 2, 3, 4, 6, 8, 12, 24)]
    + [(12, 24, 3, 6), (24, 12, 8, 4), (6, 6, 3, 3), (1, 10, 1, 5), (10, 1, 5, 1)],
)
def test_a_perfect_product_is_regular(rows, cols, down, across):
    row = torch.arange(rows).unsqueeze(1) * down // rows
    col = torch.arange(cols) * across // cols
    assert torch.equal(grid_cells(rows, cols, down * across), (row * across + col).flatten())


def test_three_cells_of_a_square_are_nearly_even():
    assert grid_cells(4, 4, 3).view(4, 4).tolist() == [[0, 0, 0, 0], *[[1, 1, 2, 2]] * 3]


@pytest.mark.sampled
@pytest.mark.parametrize("kept", [*range(1, 577, 5), 500, 575, 576])
def test_cells_are_square_and_even_on_the_grid_of_clip(kept):
    areas, worst = [], 1.0
    for inside, down, across in extents(24, 24, kept):
        areas.append(len(inside))
        worst = max(worst, (max(len(down), len(across))) / (min(len(down), len(across)) + 1))
    fair = 576 / kept
    assert max(areas) <= 1.5 * fair + 3
    assert min(areas) >= fair / 2 - 1
    assert kept in (2, 3) or worst <= 1.5


def test_more_than_all_tokens_gives_every_token_its_own_cell():
    assert grid_cells(3, 5, 99).tolist() == cell_centers(3, 5, 99).tolist() == list(range(15))


def test_changing_a_result_in_place_changes_no_later_result():
    grid_cells(3, 3, 4).zero_()
    cell_centers(3, 3, 4).zero_()
    assert set(grid_cells(3, 3, 4).tolist()) == {0, 1, 2, 3}
    assert len(set(cell_centers(3, 3, 4).tolist())) == 4


@pytest.mark.parametrize("function", [grid_cells, cell_centers])
@pytest.mark.parametrize("wrong", ["rows", "cols", "kept"])
def test_sizes_below_one_are_refused(function, wrong):
    with pytest.raises(TokenselError, match=f"^{wrong}=0: must be at least 1$"):
        function(**({"rows": 2, "cols": 2, "kept": 2} | {wrong: 0}))
