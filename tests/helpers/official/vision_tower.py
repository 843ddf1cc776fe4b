"""A vision tower made from a case's numbers, for the methods that look at one."""

import torch
from torch import nn

from helpers.official import Case
from tokensel import Context, Selection, make_method
from tokensel.models.vision import ClsTower
from tokensel.testing import make_context

HEADS = 4


def select(case: Case, method: str, kept: int, **options) -> Selection:
    """What our method chooses on a case's numbers."""
    return make_method(method, **options).select(tower_context(case, kept))


def tower_context(case: Case, kept: int) -> Context:
    """A Context whose tower is made of the case's projections and hidden states; the projector is the identity."""
    attention = nn.Module()
    attention.num_heads = HEADS
    for name, part in (("q_proj", "q"), ("k_proj", "k")):
        weight = case.shared(f"{part}_weight")
        linear = nn.Linear(*weight.shape)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = nn.Parameter(case.shared(f"{part}_bias"), requires_grad=False)
        setattr(attention, name, linear)
    layer = nn.Module()
    layer.layer_norm1, layer.self_attn = nn.Identity(), attention
    # The same layer stands for the last one and the one before: each method looks at one of them.
    entering, hidden = case["entering"].unsqueeze(0), case["hidden"].unsqueeze(0)
    vision = ClsTower([layer, layer], [entering, entering], hidden, nn.Identity())
    return make_context(kept, tokens=vision.features, layer=0, vision=vision)


def chosen(selection: Selection) -> tuple[torch.Tensor, torch.Tensor]:
    """The indices [M] and values [M, D] of the only row."""
    count = selection.indices.shape[1] if selection.counts is None else int(selection.counts[0])
    return selection.indices[0, :count], selection.values[0, :count]
