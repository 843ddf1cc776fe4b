"""Captures what goes through a vision tower while a model runs."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tokensel.errors import TokenselError
from tokensel.models.families import Family
from tokensel.models.patches import PatchTower
from tokensel.models.tower_layer import tower_attention
from tokensel.models.vision import ClsTower, VisionStates, feature_layers

# Parameters that hold a tower's [CLS].
_CLS = ("class_embedding", "cls_token")


class _Captured(threading.local):
    """What a tower's last run left, for each thread by itself.

    layers: the tower's, of several towers those of the one that ran. entering: the states, by layer; output: the last
    layer's; rotary, mask: what else the last layer was given.
    """

    def __init__(self) -> None:
        self.layers: list[nn.Module] = []
        self.entering: dict[int, Tensor] = {}
        self.output: Tensor | None = None
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.mask: Tensor | None = None


class VisionTap:
    """Captures what enters each layer of a vision tower while it runs. Stores references, no copies.

    Raises TokenselError for a model whose tower is not understood.
    """

    def __init__(self, llava: Any, family: Family) -> None:
        names = ("vision_tower", "visual", "vision_model", "image_tower", "video_tower")
        towers = [getattr(llava, name) for name in names if hasattr(llava, name)]
        self._stacks = [_stack(llava, tower) for tower in towers or [None]]
        self._llava, self._family, self._captured = llava, family, _Captured()
        self._special = int(any(name.endswith(_CLS) for name, _ in towers[0].named_parameters()))
        strategy = getattr(llava.config, "vision_feature_select_strategy", "default")
        if self._special and strategy != "default":
            raise TokenselError(
                f"vision_feature_select_strategy={strategy}: must be 'default', without [CLS] among the visual tokens, "
                "for methods that use the vision tower"
            )

    def attach(self) -> list[RemovableHandle]:
        """Registers the hooks and returns their handles, which the caller must remove."""

        def before(stack: list[nn.Module], index: int) -> Any:
            def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                captured = self._captured
                captured.layers = stack
                captured.entering[index] = args[0] if args else kwargs["hidden_states"]
                captured.rotary = kwargs.get("position_embeddings")
                captured.mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")

            return keep

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._captured.output = output[0] if isinstance(output, tuple) else output

        handles = [
            layer.register_forward_pre_hook(before(stack, index), with_kwargs=True)
            for stack in self._stacks
            for index, layer in enumerate(stack)
        ]
        return [*handles, *(stack[-1].register_forward_hook(after) for stack in self._stacks)]

    def take(self, pictures: Mapping[str, Any]) -> VisionStates | None:
        """The states of the tower's last run, or None if it has not run since the previous call.

        pictures: pixel_values and its companions, as the model was given them. Raises TokenselError for a feature layer
        that does not exist, and for a picture beside a video: they go through the tower one after the other.
        """
        captured = self._captured
        if captured.output is None:
            return None
        if "pixel_values_videos" in pictures and ("pixel_values" in pictures or "pixel_values_images" in pictures):
            raise TokenselError(
                "pixel_values_videos: beside pixel_values; methods that use the vision tower take pictures or a video"
            )
        depth = len(captured.layers)
        between = [captured.entering[each] for each in range(depth)] + [captured.output]
        captured.entering, captured.output = {}, None
        arrangement = self._family.arrangement(self._llava, pictures, cls=bool(self._special))
        if arrangement is None:
            return self._cls_tower(between)
        order = tuple(range(len(arrangement.spans)))
        rotary, mask = captured.rotary, captured.mask
        mask = mask if mask is not None and mask.ndim == 4 else None
        return PatchTower(captured.layers, between[:-1], arrangement, order, self._special, rotary, mask)

    def _cls_tower(self, between: list[Tensor]) -> ClsTower:
        """between: the states before, between and after the layers."""
        named = feature_layers(self._llava.config)
        chosen = [named] if isinstance(named, int) else list(named)
        if not all(-len(between) <= layer < len(between) for layer in chosen):
            raise TokenselError(
                f"vision_feature_layer={named}: must be from {-len(between)} to {len(between) - 1} for methods that "
                "use the vision tower"
            )
        index = chosen[0] % len(between) if isinstance(named, int) else None
        hidden = between[index] if index is not None else torch.cat([between[layer] for layer in chosen], -1)
        layers, projector = self._captured.layers, self._llava.multi_modal_projector
        return ClsTower(layers, between[:-1], hidden, projector, feature_layer=index)


def _stack(llava: Any, tower: nn.Module | None) -> list[nn.Module]:
    """A tower's layers. Raises TokenselError for a tower that is not understood."""
    stack = None if tower is None else next((part for part in tower.modules() if isinstance(part, nn.ModuleList)), None)
    if stack is None or tower_attention(stack[-1]) is None:
        raise TokenselError(f"{type(llava).__name__}: its vision tower is not like CLIP, SigLIP or Qwen-VL's")
    return list(stack)
