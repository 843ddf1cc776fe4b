"""One call of a decoder's forward: its arguments as spans take them, and its output from theirs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from tokensel.engine.caches import new_cache, prepare_cache
from tokensel.engine.forward import Outputs
from tokensel.engine.stock import CACHE_NAMES, find_cache, maybe_install_capturing_hooks
from tokensel.errors import TokenselError
from tokensel.models.parts import ModelParts

# Arguments that spans get in another form; all others are passed on.
_OWN = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "use_cache", "return_dict", *CACHE_NAMES)
_DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")


@dataclass(frozen=True)
class Call:
    """given: the arguments by name. embeds: [B, T, D]. mask: [B, keys], or None."""

    given: dict[str, Any]
    embeds: Tensor
    mask: Tensor | None
    start: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for every span."""
        return {name: value for name, value in self.given.items() if name not in (*_OWN, *_DEEPSTACK)}

    def deepstack(self, visual_index: Tensor) -> Tensor | None:
        """`State.deepstack`, for visual tokens at visual_index [B, N].

        Raises TokenselError where a video's features are among them.
        """
        given = self.given.get("deepstack_visual_embeds") or ()
        if any(len(each) != visual_index.numel() for each in given):
            raise TokenselError("pixel_values_videos: a prompt with deepstack features of a video cannot be reduced")
        # One after the other: vision towers and embeddings may have different dtypes and devices.
        layers = [each.to(self.embeds).view(*visual_index.shape, -1) for each in given]
        return torch.stack(layers, 2) if layers else None

    def behind(self, length: int) -> "Call":
        """The part of the call behind its first `length` tokens."""
        return replace(self, embeds=self.embeds[:, length:], start=length)

    def position_ids(self, seen: int) -> Tensor:
        """[B or 1, T], or [axes, B or 1, T]; seen: tokens before these, in the cache."""
        given = self.given.get("position_ids")
        if given is None:
            return torch.arange(seen, seen + self.embeds.shape[1], device=self.embeds.device).unsqueeze(0)
        return given[..., self.start :]

    def prepared_cache(self, parts: ModelParts) -> Cache | None:
        """The cache to fill: the given one, a new one if the call uses one, or None."""
        cache, decoder = find_cache(self.given), parts.decoder
        use = self.given.get("use_cache")
        if use is None:
            use = getattr(decoder.config, "use_cache", False)
        if getattr(decoder, "gradient_checkpointing", False) and decoder.training:
            use = False  # as the stock forward does: what is computed again must not be cached twice
        if cache is None:
            return new_cache(parts) if use else None
        return prepare_cache(cache, parts.num_layers)

    def prepare_outputs(self, parts: ModelParts) -> None:
        """Lets the decoder record hidden states and attentions where the call wants them.

        Raises TokenselError for a selection of hidden states, which spans would number each by itself, and for the
        routers' logits, whose loss would need masks of the layers' lengths.
        """
        wanted = self.given.get("output_hidden_states")
        if wanted is not None and not isinstance(wanted, bool):
            raise TokenselError(f"output_hidden_states={wanted}: must be True or False while tokens are reduced")
        config = parts.decoder.config
        if self.given.get("output_router_logits", getattr(config, "output_router_logits", False)):
            raise TokenselError("output_router_logits=True: must be False while tokens are reduced")
        names = ("output_hidden_states", "output_attentions")
        if any(self.given.get(name, getattr(config, name, False)) for name in names):
            maybe_install_capturing_hooks(parts.decoder)

    def output(self, hidden: Tensor, outputs: Outputs, cache: Cache | None) -> Any:
        """What the decoder returns: the last span's output, with hidden [B, T, D] and all spans' layers."""
        output = outputs[-1]
        output["last_hidden_state"] = hidden
        for name in CACHE_NAMES:
            if output.get(name) is not None:
                output[name] = cache
        for name, skipped in (("hidden_states", 1), ("attentions", 0)):  # a span's first hidden states are its input
            if output.get(name) is not None:
                later = [each for one in outputs[1:] for each in one[name][skipped:]]
                output[name] = (*outputs[0][name], *later)
        if output.get("hidden_states") is not None:
            output["hidden_states"] = (*output["hidden_states"][:-1], hidden)
        return output.to_tuple() if self.given.get("return_dict") is False else output


def key_mask(mask: Any, cache: Cache | None, total: int, parts: ModelParts, both_ways: bool = False) -> Tensor | None:
    """A call's attention_mask as [B, total] keys; None: all real. With a static cache `generate` has already made it
    4-D: its last row says the same. both_ways: a picture's tokens may see later ones.

    Raises TokenselError for any other mask.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == total:
        return mask
    window = getattr(parts.decoder.config, "sliding_window", None)
    everywhere = not getattr(parts.decoder.config, "layer_types", None)
    if getattr(cache, "is_compileable", False) and isinstance(mask, Tensor) and mask.ndim == 4:
        if window is not None and everywhere and total > window:
            raise TokenselError("past_key_values: a static cache with sliding windows in every layer cannot be reduced")
        seen = mask[:, 0, :, :total] if mask.dtype == torch.bool else mask[:, 0, :, :total] == 0
        if not both_ways and seen.triu(total - mask.shape[2] + 1).any():
            raise TokenselError("past_key_values: a static cache with attention that is not causal cannot be reduced")
        return seen[:, -1]
    shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    raise TokenselError(
        f"attention_mask={shape}: must be [B, {total}], the whole sequence's; 4-D masks cannot be reduced"
    )
