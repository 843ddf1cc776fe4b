"""Budgets: the kept at which a method costs as much as it may.

    budget=average_tokens:64    visual tokens, averaged over the decoder's layers, are 64
    budget=flops:0.4            a prefill takes 0.4 of the full model's FLOPs, selection and vision tower included

Methods of one stage and of several, early and late ones, are then compared at equal cost.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from tokensel.evaluation.grid_point import GridPoint
    from tokensel.evaluation.sweep.costs import CostedPrompt

KINDS = ("average_tokens", "flops")
ALLOWED = "must be average_tokens:NUMBER above 0, or flops:SHARE between 0 and 1"
# How far a solution may lie from its target, in tokens and relative to the share.
NEAR_TOKENS, NEAR_SHARE = 1.0, 0.005
# Counts that are tried on both sides of where the cost crosses the target: it may rise in steps, or fall back a little
# where a merging method has less work to do.
AROUND = 16


@dataclass(frozen=True)
class Budget:
    """kind: one of KINDS. target: tokens per layer, or a share of the full model's FLOPs."""

    kind: str
    target: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.target:.10g}"


def read_budget(text: str) -> Budget:
    """Reads "average_tokens:64" or "flops:0.4". Raises TokenselError for anything else."""
    kind, _, number = text.partition(":")
    try:
        target = float(number)
    except ValueError:
        target = math.nan
    most = 1.0 if kind == "flops" else math.inf
    if kind not in KINDS or not 0 < target < most:
        raise TokenselError(f"budget={text}: {ALLOWED}")
    return Budget(kind, target)


def solve(
    budget: Budget, point: "GridPoint", prompt: "CostedPrompt", stages: Callable[[int], tuple[int, ...]] | None = None
) -> "GridPoint":
    """The point with the kept whose cost is nearest to the budget; of several equally near ones, the smallest.

    A method of several stages is given what remains after the last one, and its schedule does the rest. stages: that
    schedule instead, from what remains after the last stage to what remains after each; none of them may fall as the
    last one rises.

    Raises TokenselError, with the nearest value that can be reached, if that is not near enough: more than 1 token or
    0.5% of the FLOPs away, or than half a token's FLOPs where a token has more.
    """
    if not prompt.visual_tokens:
        raise TokenselError(f"budget={budget}: the questions have no picture, so there are no visual tokens to count")
    from tokensel.engine.stages import make_stages  # loads torch, which reading a budget does not need

    method = point.make_method()

    @cache
    def cost_of(kept: int) -> float:
        counts = kept if stages is None else stages(kept)
        cost = prompt.cost(make_stages(method, **point.reduction() | {"kept": counts}, num_layers=prompt.num_layers))
        return cost.tokens_layer_mean if budget.kind == "average_tokens" else cost.total / prompt.full.total

    kept = range(max(1, method.min_kept), prompt.visual_tokens + 1)
    crossing = bisect_left(kept, budget.target, key=cost_of)
    around = kept[max(0, crossing - AROUND) : crossing + AROUND] or kept[-1:]
    best = min(around, key=lambda kept: (abs(cost_of(kept) - budget.target), kept))
    if abs(cost_of(best) - budget.target) > _near(budget, prompt):
        unit = "visual tokens per layer" if budget.kind == "average_tokens" else "of the full model's FLOPs"
        raise TokenselError(
            f"budget={budget}: method {point.method!r} cannot reach it; the nearest is {cost_of(best):.4g} {unit}, "
            f"at kept={best}"
        )
    return replace(point, kept=best if stages is None else stages(best))


def _near(budget: Budget, prompt: "CostedPrompt") -> float:
    if budget.kind == "average_tokens":
        return NEAR_TOKENS
    token = prompt.full.decoder / (prompt.text_tokens + prompt.visual_tokens) / prompt.full.total
    return max(NEAR_SHARE * budget.target, token / 2)
