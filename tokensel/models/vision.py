"""What the vision tower saw: its features, [CLS] attention and keys, for methods that select before the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tokensel.errors import TokenselError
from tokensel.models.families import family_of


@dataclass(frozen=True)
class VisionStates:
    """The last two layers of a CLIP-like tower at work on some pictures, one per row.

    layers: those two layers. entering: the hidden states [B, 1 + N, D] that entered each; [CLS] comes first.
    features: [B, N, D], what the projector is given. projector: from them to the decoder's width.
    """

    layers: Sequence[Any]
    entering: Sequence[Tensor]
    features: Tensor
    projector: nn.Module

    def rows(self, order: Tensor) -> "VisionStates":
        """These pictures in another order, LongTensor[B'], with repetitions where prompts share a picture."""
        return replace(self, entering=[states[order] for states in self.entering], features=self.features[order])

    def project(self, features: Tensor) -> Tensor:
        """Features [B, M, D] as visual tokens of the decoder: [B, M, D_text]."""
        return self.projector(features)

    def keys(self, layer: int = -2) -> Tensor:
        """Keys of the tower's layer (-1 last, -2 the one before) at the visual tokens: [B, N, heads, d]."""
        return self._heads(layer, "k_proj", self._normed(layer))[:, 1:]

    def cls_attention(self, layer: int = -2) -> Tensor:
        """Probabilities that the [CLS] token gives to each visual token: [B, heads, N] in float32, each head's summing
        to 1 with the one of [CLS] itself. One row: O(N D), not the tower's attention map."""
        normed = self._normed(layer)
        query = self._heads(layer, "q_proj", normed[:, :1])
        key = self._heads(layer, "k_proj", normed)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key).float() * query.shape[-1] ** -0.5
        return scores.softmax(-1)[:, :, 0, 1:]

    def _normed(self, layer: int) -> Tensor:
        return self.layers[layer].layer_norm1(self.entering[layer])

    def _heads(self, layer: int, projection: str, states: Tensor) -> Tensor:
        attention = self.layers[layer].self_attn
        return getattr(attention, projection)(states).unflatten(-1, (attention.num_heads, -1))


class VisionTap:
    """Keeps what enters the last two layers of a LLaVA's vision tower while it runs; costs two references.

    Raises TokenselError for a model whose tower has no [CLS] token or more than one feature layer.
    """

    def __init__(self, llava: Any) -> None:
        tower, config = getattr(llava, "vision_tower", None), llava.config
        stack = next((part for part in tower.modules() if isinstance(part, nn.ModuleList)), None) if tower else None
        if not family_of(config).one_grid:
            raise TokenselError(
                f"model_type={config.model_type}: methods that look at the vision tower need one picture of one grid, "
                "as LLaVA-1.5 has it"
            )
        if stack is None or not hasattr(stack[-1], "layer_norm1"):
            raise TokenselError(f"{type(llava).__name__}: its vision tower is not CLIP-like, methods cannot look at it")
        strategy = getattr(config, "vision_feature_select_strategy", None)
        if strategy != "default":
            raise TokenselError(
                f"vision_feature_select_strategy={strategy}: methods that look at the vision tower need 'default', "
                "a tower with a [CLS] token"
            )
        self.layers = list(stack)[-2:]
        self.depth = len(stack)
        self.feature_layer = config.vision_feature_layer
        self.projector = llava.multi_modal_projector
        self._entering: dict[int, Tensor] = {}
        self._left: Tensor | None = None

    def attach(self) -> list[RemovableHandle]:
        """Registers the hooks; the caller removes the handles that it gets."""

        def before(place: int) -> Any:
            def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._entering[place] = args[0] if args else kwargs["hidden_states"]

            return keep

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._left = output[0] if isinstance(output, tuple) else output

        handles = [
            layer.register_forward_pre_hook(before(place), with_kwargs=True) for place, layer in enumerate(self.layers)
        ]
        return [*handles, self.layers[-1].register_forward_hook(after)]

    def take(self) -> VisionStates | None:
        """What the tower's last run left; None if it did not run since. It is handed out once."""
        if self._left is None:
            return None
        before, last, left = self._entering[0], self._entering[1], self._left
        hidden = {self.depth - 2: before, self.depth - 1: last, self.depth: left}
        layer = self.feature_layer
        place = layer if not isinstance(layer, int) or layer >= 0 else self.depth + 1 + layer
        if place not in hidden:
            raise TokenselError(f"vision_feature_layer={layer}: methods that look at the vision tower need -1 to -3")
        self._entering, self._left = {}, None
        return VisionStates(self.layers, [before, last], hidden[place][:, 1:], self.projector)
