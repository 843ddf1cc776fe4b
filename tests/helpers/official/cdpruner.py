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
    units = torch.nn.functional.normalize(case["tokens"].double(), dim=-1)
    quality = case["relevance"].double()
    kernel = quality[:, None] * (units @ units.T) * quality
    residual, factors, chosen = kernel.diagonal().clone(), [], []
    for _ in range(case.settings["kept"]):
        residual[chosen] = -torch.inf
        best = int(residual.argmax())
        known = sum((factor * factor[best] for factor in factors), torch.zeros_like(residual))
        factors.append((kernel[best] - known) / residual[best].sqrt())
        residual = residual - factors[-1].square()
        chosen.append(best)
    return sorted(chosen)
