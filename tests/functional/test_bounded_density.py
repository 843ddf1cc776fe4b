"""Density peaks within a bounded radius, against the greedy rule written out."""

import pytest
import torch

from tokensel import TokenselError
from tokensel.functional import bounded_centers, bounded_centers_of_number, cosine_distances, density_order

POINTS = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cutoff", [0.0, 0.05, 0.3, 1.0, 2.0])
def test_centres_are_those_of_the_greedy_rule(cutoff):
    distances = cosine_distances(POINTS, POINTS)
    order = density_order(distances)
    found = bounded_centers(distances, order, cutoff)
    assert torch.equal(found, bounded_centers(distances, order, torch.full((3,), cutoff)))
    for row in range(3):
        density = (-(distances[row] / 2).square()).exp().sum(1)
        assert (density[order[row]].diff() <= 1e-4).all()
        centres = []
        for point in order[row].tolist():
            if all(float(distances[row, point, centre]) > cutoff for centre in centres):
                centres.append(point)
        assert found[row].nonzero()[:, 0].tolist() == sorted(centres)


@pytest.mark.parametrize("number", [1, 2, 17, 39, 40])
def test_a_number_of_centres_is_met_exactly_at_the_largest_cutoff_found(number):
    distances = cosine_distances(POINTS, POINTS)
    order = density_order(distances)
    centres, cutoff = bounded_centers_of_number(distances, order, number)
    assert centres.sum(1).tolist() == [number] * 3
    assert (bounded_centers(distances, order, cutoff).sum(1) >= number).all()
    assert (bounded_centers(distances, order, cutoff) | ~centres).all()
    equal = torch.eye(6)[[0] * 5].unsqueeze(0)
    distances = cosine_distances(equal, equal)
    centres, cutoff = bounded_centers_of_number(distances, density_order(distances), 3)
    assert centres.tolist() == [[True, True, True, False, False]]
    assert cutoff.tolist() == [-1]


def test_a_number_out_of_range_is_refused():
    distances = cosine_distances(POINTS, POINTS)
    with pytest.raises(TokenselError, match="number=41: must be from 1 to 40"):
        bounded_centers_of_number(distances, density_order(distances), 41)
