"""The reduced forward by hand, for one prompt: the model's own layers one by one, given what remains.

Nothing of tokensel's engine is used: masks and rotary embeddings are those that the stock forward gives its layers.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tokensel.models.parts import ModelParts


class Trace:
    """A stock forward over one whole prompt, and what each decoder layer was given in it.

    visual: the places of its visual tokens. model: with the head. layers: those before which tokens may be removed.
    """

    @torch.no_grad()
    def __init__(
        self, parts: ModelParts, inputs: Mapping[str, Any], visual: Sequence[int], model: Any, layers: Collection[int]
    ) -> None:
        self.layers, self.norm = parts.layers[: parts.num_layers], parts.decoder.norm
        self.head: nn.Module = model.get_output_embeddings()
        self.visual = list(visual)
        self.hidden: dict[int, Tensor] = {}
        self.given: list[dict[str, Any]] = []
        self.deepstack: Sequence[Tensor] = ()
        self.has_axes = False

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(self.given) in layers:
                self.hidden[len(self.given)] = args[0] if args else kwargs["hidden_states"]
            self.given.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

        def begin(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.deepstack = kwargs.get("deepstack_visual_embeds") or ()
            positions = kwargs.get("position_ids")
            self.has_axes = positions is not None and positions.ndim == 3

        with ExitStack() as stack:
            hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in self.layers]
            hooks.append(parts.decoder.register_forward_pre_hook(begin, with_kwargs=True))
            for hook in hooks:
                stack.callback(hook.remove)
            model(**inputs, use_cache=False)

    @torch.no_grad()
    def reduced(
        self,
        layer: int,
        chosen: Sequence[int],
        position: str = "source",
        temperature: float | None = None,
        last: int = 1,
    ) -> Tensor:
        """The logits at the last positions, [last, V], if only some visual tokens remain from this layer on.

        chosen: which, counted among the visual tokens. position: source, each stays where it was; front, they stand in
        this order at the first places of the picture; renumber, moreover all positions close up, unless positions have
        several axes: then it is source. temperature: each carries softmax(cosine / temperature) @ tokens, and as much
        of features that later layers add; None: its own.
        """
        if position == "renumber" and self.has_axes:
            position = "source"
        states = self.hidden[layer][0]
        tokens = states[self.visual]
        order = sorted(chosen) if position == "source" else list(chosen)
        slots = [self.visual[each] for each in order] if position == "source" else self.visual[: len(order)]
        removed = set(self.visual) - set(slots)
        keep = [place for place in range(len(states)) if place not in removed]
        weights = None if temperature is None else attention(tokens, order, temperature)
        states = states.clone()
        states[slots] = carried(tokens, order, weights)
        hidden = states[keep].unsqueeze(0)
        places = list(range(len(keep))) if position == "renumber" else keep
        now = [keep.index(slot) for slot in slots]
        for index in range(layer, len(self.layers)):
            output: Any = self.layers[index](hidden, **self._given(index, keep, places))
            hidden = output[0] if isinstance(output, tuple) else output
            if index < len(self.deepstack):
                hidden = hidden.clone()
                hidden[0, now] += carried(self.deepstack[index], order, weights).to(hidden.device, hidden.dtype)
        return self.head(self.norm(hidden[:, -last:]))[0]

    def _given(self, index: int, keep: list[int], places: list[int]) -> dict[str, Any]:
        """A layer's arguments for the tokens that remain. places: where their rotary embeddings are taken from."""
        given = dict(self.given[index])
        rotary = given.get("position_embeddings")
        if rotary is not None:
            given["position_embeddings"] = tuple(each[..., places, :] for each in rotary)
        if given.get("position_ids") is not None:  # without a gap, which flash attention would take for a border
            given["position_ids"] = torch.arange(len(keep), device=given["position_ids"].device).unsqueeze(0)
        given["attention_mask"] = reduced_mask(given.get("attention_mask"), keep)
        return given


def attention(tokens: Tensor, chosen: list[int], temperature: float) -> Tensor:
    """The weights of parameter-free cross-attention of the chosen tokens over all of them, [N, D] -> [M, N]."""
    unit = tokens.float() / tokens.float().norm(dim=-1, keepdim=True)
    return ((unit[chosen] @ unit.T) / temperature).softmax(-1)


def carried(values: Tensor, chosen: list[int], weights: Tensor | None) -> Tensor:
    """What survivors carry of all tokens' values, [N, D] -> [M, D]: their own, or the sum by weights [M, N]."""
    if weights is None:
        return values[chosen]
    return (weights.to(values.device) @ values.float()).to(values.dtype)


def reduced_mask(mask: Tensor | None, keep: list[int]) -> Tensor | None:
    """A layer's 4-D mask for the tokens that remain: causal, in the same window, and with what later tokens a token saw
    before, as those of one picture may see each other. None stays None: causal, by the kernel itself."""
    if mask is None or mask.ndim != 4:
        return None
    allowed = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
    window = int(allowed[-1].sum())  # what the last token sees: all, or its window
    places = torch.arange(len(keep), device=mask.device)
    distance = places.unsqueeze(1) - places
    seen = (distance >= 0) & (distance < window) | allowed[keep][:, keep].triu(1)
    if mask.dtype != torch.bool:
        return torch.zeros_like(mask[:1, :1, :1, :1]).masked_fill(~seen, torch.finfo(mask.dtype).min)
    return seen[None, None]
