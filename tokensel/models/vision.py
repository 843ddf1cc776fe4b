"""What a vision tower computed, for methods that select tokens before the decoder: an interface, and LLaVA-1.5's."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokensel.errors import TokenselError
from tokensel.models.tower_layer import first_norm, project_heads


class VisionStates(ABC):
    """What a vision tower computed for B pictures, one entry per visual token in the order of the decoder's sequence.

    layers: all layers of the tower.
    """

    layers: Sequence[Any]

    @property
    @abstractmethod
    def features(self) -> Tensor:
        """What `project` takes: [B, N, D]. The projector's input where each patch is one visual token (LLaVA-1.5)."""

    @property
    @abstractmethod
    def cls(self) -> Tensor | None:
        """The state of [CLS] at the feature layer: [B, D]; None where no single [CLS] stands for the picture."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the states are."""

    @abstractmethod
    def rows(self, order: Tensor) -> "VisionStates":
        """These pictures in the order given, LongTensor[B'], repeated where prompts share a picture."""

    def one_frame(self, index: int, frames: int) -> "VisionStates":
        """These states of one frame alone, of videos with so many frames."""
        raise TokenselError(f"{type(self).__name__}: has no frames")

    def with_tokens(self, tokens: Tensor) -> "VisionStates":
        """These states, and the visual tokens [B, N, D_text] that the decoder was given."""
        return self

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Features [B, M, D] as visual tokens of the decoder: [B, M, D_text]."""

    @abstractmethod
    def keys(self, layer: int = -2) -> Tensor:
        """Keys of the visual tokens in a tower layer (-1: the last, -2: the one before): [B, N, heads, d].

        Before rotary embedding; a token that several patches are merged into has the mean of their keys.
        """

    def cls_attention(self, layer: int = -2, one_head: bool = False) -> Tensor:
        """The attention probabilities from [CLS] to each visual token in a tower layer: [B, heads, N] in float32.

        Without [CLS]: the attention that the token's patches receive, averaged over all queries of their tile and over
        the patches that are merged into the token. one_head: one softmax over the full width, q k / sqrt(D), as of a
        layer with a single head: [B, 1, N].
        """
        return self.cls_attention_and_keys(layer, one_head)[0]

    @abstractmethod
    def cls_attention_and_keys(self, layer: int = -2, one_head: bool = False) -> tuple[Tensor, Tensor]:
        """`cls_attention` and `keys` at the cost of the former: [B, heads, N] and [B, N, heads, d]."""


@dataclass(frozen=True)
class ClsTower(VisionStates):
    """A CLIP tower whose patches are the visual tokens, as in LLaVA-1.5.

    Parameters:
        layers: all layers of the tower
        entering: the hidden states [B, 1 + N, D] that entered each of them, [CLS] first
        hidden: [B, 1 + N, D], the states of the feature layer or layers, [CLS] first
        projector: maps features to the decoder's hidden size
        feature_layer: which of the states between the layers `hidden` is: 0 = what enters the first, -1 = the output of
            the last; None = several of them side by side
    """

    layers: Sequence[Any]
    entering: Sequence[Tensor]
    hidden: Tensor
    projector: nn.Module
    feature_layer: int | None = field(default=-2, kw_only=True)

    @property
    def through(self) -> int:
        """The number of layers that the features have passed. Raises TokenselError for features of several layers."""
        if self.feature_layer is None:
            raise TokenselError("vision_feature_layer: names several layers; this method needs the features of one")
        return self.feature_layer % (len(self.layers) + 1)

    def after(self, layer: int) -> Tensor:
        """The output of a layer of those that the features have passed: [B, 1 + N, D]."""
        return self.hidden if layer + 1 == self.through else self.entering[layer + 1]

    @property
    def features(self) -> Tensor:
        return self.hidden[:, 1:]

    @property
    def cls(self) -> Tensor:
        return self.hidden[:, 0]

    @property
    def device(self) -> torch.device:
        return self.hidden.device

    def rows(self, order: Tensor) -> "ClsTower":
        return replace(self, entering=[states[order] for states in self.entering], hidden=self.hidden[order])

    def project(self, features: Tensor) -> Tensor:
        return self.projector(features)

    def keys(self, layer: int = -2) -> Tensor:
        normed = first_norm(self.layers[layer], self.entering[layer])
        return project_heads(self.layers[layer], "k_proj", normed)[:, 1:]

    def cls_attention_and_keys(self, layer: int = -2, one_head: bool = False) -> tuple[Tensor, Tensor]:
        """Costs O(N D): only the query of [CLS] is computed. Each head's probabilities sum to 1 with that of [CLS]."""
        return cls_row_and_keys(self.layers[layer], self.entering[layer], one_head)


def cls_row_and_keys(layer: Any, states: Tensor, one_head: bool = False) -> tuple[Tensor, Tensor]:
    """The attention probabilities from the first token to the others, [B, heads, T - 1] in float32, and their keys.

    layer: CLIP-like. states: [B, T, D], what enters it. Returns also keys [B, T - 1, heads, d].
    """
    normed = first_norm(layer, states)
    query = project_heads(layer, "q_proj", normed[:, :1])
    key = keys = project_heads(layer, "k_proj", normed)
    if one_head:
        query, key = (each.flatten(2).unsqueeze(2) for each in (query, key))
    # In float16 a product over the full width may overflow.
    scores = torch.einsum("bqhd,bkhd->bhqk", query.float(), key.float()) * query.shape[-1] ** -0.5
    return scores.softmax(-1)[:, :, 0, 1:], keys[:, 1:]


def feature_layers(config: Any) -> Any:
    """The tower's layer or layers whose output is projected, by either name that transformers has for them."""
    names = ("vision_feature_layer", "vision_feature_layers")
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)


def feature_index(config: Any) -> int:
    """The number of the tower's layers that its features pass; 0 where they are made of several layers."""
    layer = feature_layers(config)
    return layer % (config.vision_config.num_hidden_layers + 1) if isinstance(layer, int) else 0
