"""feather and pact with a given kept: exactly as many remain."""

import pytest
import torch

from tokensel import make_stages
from tokensel.methods import Feather, Pact
from tokensel.testing import make_context

TOKENS = torch.randn(2, 36, 32, generator=torch.Generator().manual_seed(0))


def context(kept, stage=0):
    shapes = {
        (part, tokens): n for part in ("query", "key") for tokens, n in (("visual", 36), ("text", 7), ("last", 1))
    }
    made = {key: torch.randn(2, n, 4, 8, generator=torch.Generator().manual_seed(n)) for key, n in shapes.items()}
    before = (torch.arange(7) < 3).expand(2, -1)
    return make_context(
        kept,
        tokens=TOKENS,
        text=TOKENS[:, :7],
        text_mask=~before,
        projections=made,
        grid=(6, 6),
        stage=stage,
        stages=2,
    )


@pytest.mark.parametrize("kept", [1, 4, 12, 35])
def test_exactly_kept_remain(kept):
    for method in (Feather(), Pact(), Pact(clustering=False)):
        selection = method.select(context(kept))
        assert selection.indices.shape == (2, kept)
        assert selection.counts is None
        assert all(len(set(row)) == kept for row in selection.indices.tolist())
        assert method.remaining(kept, 36, 4, 0) == kept


def test_feathers_first_stage_keeps_the_uniform_tokens():
    chosen = Feather().select(context(10)).indices
    assert all({0, 3, 18, 21} <= set(row) for row in chosen.tolist())
    assert not all({0, 3, 18, 21} <= set(row) for row in Feather().select(context(10, stage=1)).indices.tolist())


def test_feathers_stages_keep_what_the_releases_share_gives_on_average():
    first, last = (stage.kept_of(576) for stage in make_stages("feather", kept=19))
    assert (last, abs(first - 217) <= 2) == (19, True)  # ratio 0.7 of the release: 172 and 64 uniform ones, then 9%
    assert [stage.kept_of(576) for stage in make_stages("feather", kept=400)][1] == 400


def test_merged_centres_weigh_all_that_they_stand_for():
    selection = Pact(keep=1.0).select(context(6))
    assert selection.sizes.sum(1).tolist() == [36, 36]
    total = (selection.values * selection.sizes.unsqueeze(-1)).sum(1)
    torch.testing.assert_close(total, TOKENS.sum(1), atol=1e-4, rtol=1e-4)
