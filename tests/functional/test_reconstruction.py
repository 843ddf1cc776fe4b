"""Basis tokens, reconstruction errors and the merging into the nearest kept token, against plain loops in float64."""

import pytest
import torch

from tokensel import TokenselError
from tokensel.functional import distant_points, keep_unexplained, merge_nearest, reconstruction_errors


def tokens_of(batch=3, count=40, width=16, seed=0):
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))


def test_distant_points_are_farthest_in_euclidean_distance():
    tokens, start = tokens_of(), torch.tensor([3, 0, 39])
    for row, chosen in zip(tokens.double(), distant_points(tokens, 6, start).tolist(), strict=True):
        for step in range(1, 6):
            nearest = torch.cdist(row, row[chosen[:step]]).amin(1)
            assert nearest.argmax() == chosen[step]


def test_distant_points_of_equal_tokens_fall_back_to_the_first():
    tokens = torch.ones(1, 5, 4)
    assert distant_points(tokens, 3, torch.tensor([2])).tolist() == [[2, 0, 0]]
    assert distant_points(tokens_of(), 100, torch.tensor([0, 0, 0])).shape == (3, 40)
    with pytest.raises(TokenselError, match=r"^count=0"):
        distant_points(tokens, 0, torch.tensor([2]))


def test_distances_and_errors_apart_by_more_than_rounding_are_ranked():
    tokens = torch.tensor([[[0.0], [1.0], [-1.000002]]])
    assert distant_points(tokens, 2, torch.tensor([0])).tolist() == [[0, 2]]
    tokens = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [3.0, 1.000004]]])
    assert keep_unexplained(tokens, 1, torch.tensor([[0]]))[0].tolist() == [[2]]


def test_the_error_is_what_ridge_regression_on_the_basis_leaves():
    tokens, basis = tokens_of(), torch.tensor([[1, 5, 7], [0, 2, 39], [8, 8, 3]])
    errors = reconstruction_errors(tokens, basis, 0.1)
    for row, chosen, found in zip(tokens.double(), basis.tolist(), errors, strict=True):
        points = row[chosen].T  # as columns
        weights = torch.linalg.lstsq(
            torch.cat([points, 0.1**0.5 * torch.eye(3, dtype=torch.double)]),
            torch.cat([row.T, torch.zeros(3, len(row), dtype=torch.double)]),
        ).solution
        torch.testing.assert_close(found.double(), (row.T - points @ weights).norm(dim=0), atol=1e-4, rtol=1e-4)


def test_equal_basis_tokens_of_large_norm_give_finite_errors():
    tokens = tokens_of() * 1e4
    tokens[:, 7] = tokens[:, 5]
    errors = reconstruction_errors(tokens, torch.tensor([[5, 7]]).expand(3, -1))
    torch.testing.assert_close(errors, reconstruction_errors(tokens, torch.tensor([[5]]).expand(3, -1)))


def test_each_dropped_token_is_averaged_into_the_most_similar_target():
    tokens = tokens_of()
    targets, rest = torch.tensor([[4, 2, 9]]).expand(3, -1), torch.tensor([[0, 1, 3, 20, 30]]).expand(3, -1)
    merged = merge_nearest(tokens, targets, rest)
    for row, found in zip(tokens, merged, strict=True):
        groups = [[target] for target in targets[0].tolist()]
        for token in rest[0].tolist():
            cosine = torch.cosine_similarity(row[token], row[targets[0]])
            groups[int(cosine.argmax())].append(token)
        torch.testing.assert_close(found, torch.stack([row[group].mean(0) for group in groups]))
    assert torch.equal(merge_nearest(tokens, targets, rest[:, :0]), tokens[:, [4, 2, 9]])
    assert merge_nearest(tokens.bfloat16(), targets, rest).dtype == torch.bfloat16


def test_of_equal_targets_the_first_receives():
    tokens = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]])
    merged = merge_nearest(tokens, torch.tensor([[1, 0]]), torch.tensor([[2]]))
    assert merged.tolist() == [[[2.5, 0.0], [1.0, 0.0]]]


@pytest.mark.parametrize("kept", [1, 3, 5, 37, 40])
def test_the_basis_takes_the_last_places_of_the_ranking(kept):
    tokens, basis = tokens_of(), torch.tensor([[1, 5, 7], [0, 2, 39], [8, 6, 3]])
    positions, values = keep_unexplained(tokens, kept, basis)
    errors = reconstruction_errors(tokens, basis)
    back = min(3, kept - 1)
    for row in range(3):
        assert positions[row].tolist() == sorted(errors[row].topk(kept).indices.tolist())
        found = [int((tokens[row] == value).all(1).to(int).argmax()) for value in values[row]]
        places = errors[row].topk(kept).indices[kept - back :].sort().values.tolist()
        at = [positions[row].tolist().index(place) for place in places]
        assert [found[each] for each in at] == basis[row, :back].tolist()
    alone = keep_unexplained(tokens[1:2], kept, basis[1:2])
    assert torch.equal(alone[0][0], positions[1])
    torch.testing.assert_close(alone[1][0], values[1])


def test_a_blended_place_keeps_part_of_its_own():
    tokens, basis = tokens_of(1), torch.tensor([[1, 5, 7]])
    whole, half, none = (keep_unexplained(tokens, 8, basis, blend=blend)[1] for blend in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, (whole + none) / 2)
    with pytest.raises(TokenselError, match=r"^kept=41"):
        keep_unexplained(tokens, 41, basis)
