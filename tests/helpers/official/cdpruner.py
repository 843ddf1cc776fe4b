"""CDPruner's official relevance and choice, given CLIP's embeddings."""

from unittest.mock import patch

import torch

import tokensel.methods.cdpruner
from helpers.official import Case, RoundingDecides, assert_close, assert_same
from tokensel import make_method
from tokensel.testing import make_context


class GivenEmbeddings:
    """Stands for CLIP where the case holds what CLIP computes."""

    def __init__(self, case: Case) -> None:
        self.texts = case["text_embeds"].unsqueeze(0)

    def patches(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def questions(self, texts: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.texts, torch.ones(self.texts.shape[:2], dtype=torch.bool)


def check(case: Case) -> None:
    tokens, kept = case["tokens"].unsqueeze(0), case.settings["kept"]
    given = {"tokens": tokens, "layer": 0, "vision_features": case["image_embeds"].unsqueeze(0), "questions": ["?"]}
    method = make_method("cdpruner")
    with patch.object(tokensel.methods.cdpruner, "_clip_of", return_value=GivenEmbeddings(case)):
        selection = method.select(make_context(kept, **given))
        relevance = method.relevance(make_context(kept, **given))
    assert_close(relevance[0], case["relevance"], "relevance")
    chosen = selection.indices[0]
    if chosen.tolist() != case["kept"].tolist() and chosen.tolist() == exact_choice(case):
        raise RoundingDecides("kept: float64 chooses as we do, among near-duplicates")
    assert_same(chosen, case["kept"], "kept")
    if case.settings["aligned"]:  # the embeddings were made so that the fallback, with its plus sign, agrees
        method = make_method("cdpruner", clip=None)
        selection = method.select(make_context(kept, tokens=tokens, layer=0, text=case["instruction"].unsqueeze(0)))
        assert_same(selection.indices[0], case["kept"], "kept without CLIP")


def exact_choice(case: Case) -> list[int]:
    """The greedy choice in float64, ascending: each step takes the largest determinant, by the residual of L_ii."""
    chosen: list[int] = []
    for _ in range(case.settings["kept"]):
        chosen.append(int(residuals(case, chosen).argmax()))
    return sorted(chosen)


def residuals(case: Case, chosen: list[int]) -> torch.Tensor:
    """What the chosen tokens leave of each L_ii in float64; -inf for themselves."""
    units = torch.nn.functional.normalize(case["tokens"].double(), dim=-1) * case["relevance"].double()[:, None]
    basis = torch.linalg.qr(units[chosen].T).Q
    left = (units - units @ basis @ basis.T).square().sum(1)
    left[chosen] = -torch.inf
    return left
