"""A reduction in several stages as numbers from 0 to 1, all of which mean something, whatever the model and budget.

Layers rise and counts fall by construction, and what remains after the last stage is solved for the budget, so that a
search has no dead corners but those that no count can pay for.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tokensel.engine.stages import make_stages
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.sweep.budget import Budget, solve
from tokensel.evaluation.sweep.costs import CostedPrompt


def layers_of(depths: Sequence[float], first: int, latest: int, end: int) -> tuple[int, ...]:
    """One rising layer for each depth. The first stage's lies from `first` to `latest`, and each later one's behind the
    one before and below `end`, with room for those that follow; a depth of 0 is the first such layer, 1 the last.
    Where there is no room, later stages are left out."""
    depths = depths[: max(1, end - first)]
    layers: list[int] = []
    for place, depth in enumerate(depths):
        last = end - (len(depths) - place)
        least = layers[-1] + 1 if layers else first
        most = last if layers else max(first, min(last, latest))
        layers.append(least + min(most - least, int(depth * (most - least + 1))))
    return tuple(layers)


def counts_of(falls: Sequence[float], kept: int, count: int) -> tuple[int, ...]:
    """What remains of `count` tokens after each stage; after the last, kept. Each fall is the share of the way that is
    left, in logarithms: 0 removes nothing yet, 1 all that is to go."""
    done, counts = 0.0, []
    for fall in falls:
        done += fall * (1 - done)
        counts.append(max(kept, min(count, round(count * (kept / count) ** done))))
    return (*counts, kept)


def latest_layer(budget: Budget, point: GridPoint, prompt: CostedPrompt) -> int:
    """The latest layer at which one stage can still meet the budget, if it leaves as little as the method allows.

    Raises TokenselError if there is none.
    """
    method = point.make_method()
    least = max(1, method.min_kept)

    def affordable(layer: int) -> bool:
        reduction = point.reduction() | {"kept": least, "agg_layer": layer}
        cost = prompt.cost(make_stages(method, **reduction, num_layers=prompt.num_layers))
        spent = cost.tokens_layer_mean if budget.kind == "average_tokens" else cost.total / prompt.full.total
        return spent <= budget.target

    found = [layer for layer in range(first_layer(point), prompt.num_layers) if affordable(layer)]
    if not found:
        raise TokenselError(f"budget={budget}: method {point.method!r} cannot reach it at any layer; allow more")
    return max(found)


def first_layer(point: GridPoint) -> int:
    """The first layer at which a method may act: one that ranks by the previous layer's attention needs one."""
    return 1 if point.make_method().uses_attention else 0


def scaled(
    point: GridPoint, depths: Sequence[float], falls: Sequence[float], budget: Budget, prompt: CostedPrompt
) -> GridPoint:
    """The point with these stages, and the counts that meet the budget. Raises TokenselError where none do."""
    latest = latest_layer(budget, point, prompt)
    layers = layers_of(depths, first_layer(point), latest, prompt.num_layers)
    counts = partial(counts_of, falls[: len(layers) - 1], count=prompt.visual_tokens)
    placed = replace(point, kept=counts(max(1, point.make_method().min_kept)), agg_layer=layers)
    return solve(budget, placed, prompt, stages=counts)
