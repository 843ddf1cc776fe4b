"""The vision tower's states, [CLS] attention and keys, for methods that select tokens before the decoder."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tokensel.errors import TokenselError
from tokensel.models.families import Family


@dataclass(frozen=True)
class VisionStates:
    """The layers of a CLIP-like tower and what went through them, for B pictures.

    Parameters:
        layers: all layers of the tower
        entering: the hidden states [B, 1 + N, D] that entered each of them, [CLS] first
        hidden: [B, 1 + N, D], the states of the feature layer, [CLS] first
        projector: maps features to the decoder's hidden size
        feature_layer: which of the states between the layers `hidden` is: 0 = what enters the first, -1 = the output of
            the last
    """

    layers: Sequence[Any]
    entering: Sequence[Tensor]
    hidden: Tensor
    projector: nn.Module
    feature_layer: int = field(default=-2, kw_only=True)

    @property
    def through(self) -> int:
        """The number of layers that the features have passed."""
        return self.feature_layer % (len(self.layers) + 1)

    def after(self, layer: int) -> Tensor:
        """The output of a layer of those that the features have passed: [B, 1 + N, D]."""
        return self.hidden if layer + 1 == self.through else self.entering[layer + 1]

    @property
    def features(self) -> Tensor:
        """The projector's input: [B, N, D]."""
        return self.hidden[:, 1:]

    @property
    def cls(self) -> Tensor:
        """The state of [CLS] at the feature layer: [B, D]."""
        return self.hidden[:, 0]

    def rows(self, order: Tensor) -> "VisionStates":
        """These pictures in the order given, LongTensor[B'], repeated where prompts share a picture."""
        return replace(self, entering=[states[order] for states in self.entering], hidden=self.hidden[order])

    def project(self, features: Tensor) -> Tensor:
        """Features [B, M, D] as visual tokens of the decoder: [B, M, D_text]."""
        return self.projector(features)

    def keys(self, layer: int = -2) -> Tensor:
        """Keys of the visual tokens in a tower layer (-1: the last, -2: the one before): [B, N, heads, d]."""
        return self._heads(layer, "k_proj", self._normed(layer))[:, 1:]

    def cls_attention(self, layer: int = -2, one_head: bool = False) -> Tensor:
        """The attention probabilities from [CLS] to each visual token: [B, heads, N] in float32.

        Each head's probabilities sum to 1 together with that of [CLS] itself. Costs O(N D): only this one query is
        computed. one_head: one softmax over the full width, q k / sqrt(D), as of a layer with a single head: [B, 1, N].
        """
        return self.cls_attention_and_keys(layer, one_head)[0]

    def cls_attention_and_keys(self, layer: int = -2, one_head: bool = False) -> tuple[Tensor, Tensor]:
        """`cls_attention` and `keys` at the cost of the former: [B, heads, N] and [B, N, heads, d]."""
        normed = self._normed(layer)
        query = self._heads(layer, "q_proj", normed[:, :1])
        key = keys = self._heads(layer, "k_proj", normed)
        if one_head:
            query, key = (each.flatten(2).unsqueeze(2) for each in (query, key))
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key).float() * query.shape[-1] ** -0.5
        return scores.softmax(-1)[:, :, 0, 1:], keys[:, 1:]

    def _normed(self, layer: int) -> Tensor:
        return self.layers[layer].layer_norm1(self.entering[layer])

    def _heads(self, layer: int, projection: str, states: Tensor) -> Tensor:
        attention = self.layers[layer].self_attn
        return getattr(attention, projection)(states).unflatten(-1, (attention.num_heads, -1))


def feature_layers(config: Any) -> Any:
    """The tower's layer or layers whose output is projected, by either name that transformers has for them."""
    names = ("vision_feature_layer", "vision_feature_layers")
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)


def feature_index(config: Any) -> int:
    """The number of the tower's layers that its features pass; 0 where they are made of several layers."""
    layer = feature_layers(config)
    return layer % (config.vision_config.num_hidden_layers + 1) if isinstance(layer, int) else 0


class _Captured(threading.local):
    """What a tower's last run left, for each thread by itself. entering: by layer; output: the last layer's."""

    def __init__(self) -> None:
        self.entering: dict[int, Tensor] = {}
        self.output: Tensor | None = None


class VisionTap:
    """Captures what enters each layer of a vision tower while it runs. Stores references, no copies.

    Raises TokenselError for a model whose tower has no [CLS] token or more than one feature layer.
    """

    def __init__(self, llava: Any, family: Family) -> None:
        tower, config = getattr(llava, "vision_tower", None), llava.config
        stack = next((part for part in tower.modules() if isinstance(part, nn.ModuleList)), None) if tower else None
        if not family.one_grid:
            raise TokenselError(
                f"model_type={config.model_type}: methods that use the vision tower need pictures "
                "with one grid, as in LLaVA-1.5"
            )
        if stack is None or not hasattr(stack[-1], "layer_norm1"):
            raise TokenselError(f"{type(llava).__name__}: its vision tower must be CLIP-like for methods that use it")
        strategy = getattr(config, "vision_feature_select_strategy", None)
        if strategy != "default":
            raise TokenselError(
                f"vision_feature_select_strategy={strategy}: must be 'default' (a tower with a [CLS] token) "
                "for methods that use the vision tower"
            )
        self.layers = list(stack)
        self.feature_layer = feature_layers(config)
        self.projector = llava.multi_modal_projector
        self._captured = _Captured()

    def attach(self) -> list[RemovableHandle]:
        """Registers the hooks and returns their handles, which the caller must remove."""

        def before(index: int) -> Any:
            def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._captured.entering[index] = args[0] if args else kwargs["hidden_states"]

            return keep

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._captured.output = output[0] if isinstance(output, tuple) else output

        handles = [
            layer.register_forward_pre_hook(before(index), with_kwargs=True) for index, layer in enumerate(self.layers)
        ]
        return [*handles, self.layers[-1].register_forward_hook(after)]

    def take(self) -> VisionStates | None:
        """The states of the tower's last run, or None if it has not run since the previous call.

        Raises TokenselError for several feature layers.
        """
        captured = self._captured
        if captured.output is None:
            return None
        depth = len(self.layers)
        hidden = captured.entering | {depth: captured.output}
        layer = self.feature_layer
        index = layer if not isinstance(layer, int) or layer >= 0 else depth + 1 + layer
        if index not in hidden:
            raise TokenselError(
                f"vision_feature_layer={layer}: must be one layer from {-depth - 1} to {depth} for methods that use "
                "the vision tower"
            )
        entering = [captured.entering[each] for each in range(depth)]
        captured.entering, captured.output = {}, None
        return VisionStates(self.layers, entering, hidden[index], self.projector, feature_layer=index)
