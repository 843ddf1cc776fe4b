"""Gemma 3: a picture's tokens see each other both ways, in layers of full and of sliding attention."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import Cache

from tokensel.models.arrangement import Arrangement, SquaresOfTiles
from tokensel.models.families.base import Family


class Gemma3(Family):
    """Gemma 3: every picture becomes one square grid, the averages of squares of SigLIP's patches.

    The model makes its masks of token_type_ids, which say where a picture's tokens are; here of those that remain, by
    the model's own function. The processor's image token is the one that begins a picture, not its visual token.
    """

    both_ways = True

    def image_token_id(self, processor: Any) -> int:
        return processor.tokenizer.image_token_id

    def expanded(self, processor: Any, count: int) -> str:
        return processor.full_image_sequence

    def patch_side(self, config: Any) -> int:
        return config.vision_config.patch_size * _pooled(config)

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        return SquaresOfTiles([1] * len(pictures["pixel_values"]), _pooled(llava.config))

    def along_prompt(self, input_ids: Tensor, config: Any) -> dict[str, Tensor]:
        return {"token_type_ids": (input_ids == config.image_token_id).long()}

    def masks(
        self,
        config: Any,
        hidden: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        token_types: Tensor,
        cache: dict[str, Cache | None],
    ) -> dict[str, Tensor | None]:
        # Here, because it imports the model's code, which other families do not need.
        from transformers import Gemma3ForConditionalGeneration

        return Gemma3ForConditionalGeneration.create_masks_for_generate(
            config=config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_types,
            **cache,
        )


def _pooled(config: Any) -> int:
    """How many patches are averaged to one visual token, on each side."""
    vision = config.vision_config
    return vision.image_size // vision.patch_size // int(config.mm_tokens_per_image**0.5)
