"""Scores scaled over the picture, and the mean cosine with texts."""

import torch

from tokensel.functional import mean_cosine, scaled_scores


def test_scores_go_from_0_to_1_and_are_all_1_where_they_tie():
    scores = torch.tensor([[2.0, 6, 4], [3, 3, 3], [0, 0, 0], [1, 1 - 5e-6, 1]])
    assert scaled_scores(scores).tolist() == [[0, 1, 0.5], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert scaled_scores(scores[:1].half()).dtype == torch.float32


def test_texts_that_are_not_real_do_not_count():
    tokens = torch.tensor([[[2.0, 0], [0, 3], [0, 0]]])
    texts = torch.tensor([[[5.0, 0], [0, 7], [1, 1]]])
    found = mean_cosine(tokens, texts, torch.tensor([[True, False, False]]))
    assert found.tolist() == [[1, 0, 0]]
    both = mean_cosine(tokens, texts, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(both, torch.tensor([[0.5, 0.5, 0]]))
    assert mean_cosine(tokens, texts, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0, 0, 0]]
