"""What differs between model families: how a picture becomes visual tokens, and which positions they get."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from tokensel.errors import TokenselError
from tokensel.models.arrangement import Arrangement

# Arguments of a forward with one value per prompt token, rather than per picture.
ALONG_PROMPT = ("mm_token_type_ids", "token_type_ids")
# What this package adds to a processor's pictures, which no model takes.
COMPANIONS = ("num_patches",)
# Arguments of a forward that hold its pictures, and its videos.
PICTURES = (
    "pixel_values",
    "pixel_values_images",
    "num_patches",
    "image_sizes",
    "image_grid_thw",
    "pixel_attention_mask",
    "batch_num_images",
)
VIDEOS = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")

#: Rows and columns of a picture's visual tokens, or frames, rows and columns of a video's.
Grid = tuple[int, ...]


class Family:
    """LLaVA-1.5 and models like it: every picture becomes one square grid with the same number of visual tokens.

    `pictures` always holds what a processor returns besides the prompt: pixel_values and its companions, with one entry
    per picture; of videos pixel_values_videos and its companions, with one entry per video.

    Attributes:
        fixed_size: every picture has the same number of visual tokens, so a prompt can be tokenized before its picture
            is opened
        several_pictures: prompts with several pictures are tested
        deepstack: the decoder's first layers add features to the visual tokens behind them
        processor_type: the model type whose processor the checkpoints come with; None: their own
        both_ways: a picture's tokens see each other both ways, by masks that the model makes of token_type_ids
        videos: prompts with videos are tested
    """

    fixed_size = True
    several_pictures = True
    deepstack = False
    processor_type: str | None = None
    both_ways = False
    videos = False

    def check_attention(self, name: str | None) -> None:
        """Raises TokenselError for an attention implementation that cannot take the family's masks."""
        if self.both_ways and "flash" in str(name):
            raise TokenselError(
                f"attn_implementation={name}: takes no mask by which a picture's tokens see each other both ways; use "
                "sdpa or eager"
            )

    def for_processor(self, images: list[Any]) -> list[Any]:
        """The pictures, one per prompt, in the form that the family's processor expects."""
        return images

    def image_token_id(self, processor: Any) -> int:
        """The token that stands for one visual token in input_ids, by the processor."""
        return processor.image_token_id

    def expanded(self, processor: Any, count: int) -> str:
        """What stands in a prompt for a picture of `count` visual tokens. Only for families of one picture size."""
        return processor.image_token * count

    def companions(self, image_mask: Tensor, pictures: Mapping[str, Any]) -> dict[str, Tensor]:
        """What else is known of the pictures once their visual tokens are seen in the prompts: BoolTensor[B, T]."""
        return {}

    def features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        """The visual tokens of each picture as the decoder receives them: [N, D] each.

        With deepstack features of K layers, which the decoder's first K layers add to them, these stand beside them:
        [N, (1 + K) D].
        """
        arguments = {name: value for name, value in pictures.items() if name not in (*ALONG_PROMPT, *VIDEOS)}
        return list(llava.get_image_features(**arguments, return_dict=True).pooler_output)

    def video_features(self, llava: Any, pictures: Mapping[str, Any]) -> list[Tensor]:
        """What the decoder receives at the video tokens of each video: [N, D] each."""
        more = {name: pictures[name] for name in VIDEOS[1:] if name in pictures}
        # The first argument's name differs between versions.
        pixels, more = pictures[VIDEOS[0]], accepted(llava.get_video_features, more)
        output = llava.get_video_features(pixels, **more, return_dict=True).pooler_output
        return [each.flatten(0, -2) for each in output]

    def video_grids(self, config: Any, pictures: Mapping[str, Any]) -> list[Grid]:
        """Frames, rows and columns of each video's visual tokens."""
        raise NotImplementedError

    def video_tokens(self, config: Any, input_ids: Tensor) -> Tensor:
        """Which tokens of prompts are visual tokens of videos: BoolTensor[B, T]."""
        return input_ids == config.video_token_id

    def grid(self, config: Any, pictures: Mapping[str, Any]) -> Grid | None:
        """Rows and columns of the pictures' visual tokens.

        None stands for a square grid, (1, 0) for no single grid: the tokens then count as one row in reading order.
        """
        return None

    def patch_side(self, config: Any) -> int:
        """How many pixels of a processed picture a visual token shows, on each side."""
        return config.vision_config.patch_size

    def arrangement(self, llava: Any, pictures: Mapping[str, Any], cls: bool) -> Arrangement | None:
        """How patches of the vision tower become visual tokens; None: as in LLaVA-1.5. cls: the tower has a [CLS]."""
        return None if cls else Arrangement(pictures)

    def position_ids(self, llava: Any, input_ids: Tensor, mask: Tensor | None, pictures: Mapping[str, Any]) -> Tensor:
        """Position ids of a left-padded prompt: LongTensor[B, T], or [3, B, T] if the rotary embedding has 3 axes."""
        if mask is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape[0], -1)
        return (mask.long().cumsum(1) - 1).clamp_min(0)

    def along_prompt(self, input_ids: Tensor, config: Any) -> dict[str, Tensor]:
        """Further arguments of the forward with one value per prompt token."""
        return {}

    def masks(
        self,
        config: Any,
        hidden: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        token_types: Tensor,
        cache: dict[str, Cache | None],
    ) -> dict[str, Tensor | None]:
        """The masks of a prompt by type of layer, if `both_ways`.

        config: the decoder's. hidden: [B, T, D]. attention_mask: BoolTensor[B, T] or None. token_types: LongTensor[B,
        T], 1 = visual. cache: the KV cache by the name that this version of transformers has for it.
        """
        raise NotImplementedError

    def take(self, pictures: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """The entries of the pictures at `rows`, in that order."""
        return {name: torch.as_tensor(value)[list(rows)] for name, value in pictures.items()}


def picture_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward that hold its pictures and videos."""
    return {name: arguments[name] for name in (*PICTURES, *VIDEOS) if arguments.get(name) is not None}


def pixels_of(pictures: Mapping[str, Any]) -> Any:
    """The pictures' pixel_values, by this name or Video-LLaVA's older one."""
    return pictures["pixel_values" if "pixel_values" in pictures else "pixel_values_images"]


def accepted(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function names in its signature: they differ between models and versions."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in names}
