"""The classic inputs: prompts in which -200 stands for the picture, and pictures as tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokensel.errors import TokenselError

IMAGE_TOKEN_INDEX = -200


def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | Tensor:
    """The prompt's token ids, with image_token_index for each "<image>": a list, or with "pt" a LongTensor[T].

    The rest is tokenized as by the checkpoint's own processor: the first token is added unless the prompt begins with
    it. Raises TokenselError for another return_tensors.
    """
    if return_tensors not in (None, "pt"):
        raise TokenselError(f"return_tensors={return_tensors!r}: choose 'pt' or None")
    has_first = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    ids = tokenizer(prompt, add_special_tokens=not has_first)["input_ids"]
    image_token = tokenizer.convert_tokens_to_ids(getattr(tokenizer, "image_token", "<image>"))
    ids = [image_token_index if id == image_token else id for id in ids]
    return torch.tensor(ids) if return_tensors else ids


def process_images(images: Sequence[Image.Image], image_processor: Any, model_cfg: Any = None) -> Tensor:
    """pixel_values [B, 3, H, W].

    With model_cfg.image_aspect_ratio "pad", pictures are first padded to a square with the processor's mean colour;
    otherwise the processor crops their centre. Raises TokenselError for another image_aspect_ratio.
    """
    ratio = getattr(model_cfg, "image_aspect_ratio", None)
    if ratio not in (None, "pad"):
        raise TokenselError(f"image_aspect_ratio={ratio!r}: choose 'pad' or None")
    pictures = [image.convert("RGB") for image in images]
    if ratio == "pad":
        colour = tuple(int(255 * mean) for mean in image_processor.image_mean)
        pictures = [_square(picture, colour) for picture in pictures]
    return image_processor(pictures, return_tensors="pt")["pixel_values"]


def _square(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    width, height = picture.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def prompt_mask(input_ids: Any, attention_mask: Tensor | None, pad_token_id: int) -> Tensor:
    """The attention mask LongTensor[B, T] of left-padded input_ids. attention_mask=None: all but leading pad tokens.

    Raises TokenselError for input_ids that are not [B, T], a mask of another shape, and padding on the right.
    """
    if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or not input_ids.shape[1]:
        shape = list(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TokenselError(f"input_ids={shape}: must be a LongTensor [B, T]")
    if attention_mask is None:
        return ((input_ids != pad_token_id).cumsum(1) > 0).long()
    if attention_mask.shape != input_ids.shape:
        raise TokenselError(f"attention_mask={list(attention_mask.shape)}: must be {list(input_ids.shape)}")
    if not attention_mask[:, -1].all():
        raise TokenselError("attention_mask: rows must be padded on the left, so that answers follow their prompts")
    return attention_mask.long().to(input_ids.device)


def placeholder_indices(input_ids: Tensor) -> Tensor | None:
    """The index of the -200 in each row: LongTensor[B]; None if no row has one.

    Raises TokenselError unless every row has exactly one, or none has.
    """
    placeholders = input_ids == IMAGE_TOKEN_INDEX
    counts = placeholders.sum(1)
    if not counts.any():
        return None
    if not (counts == 1).all():
        raise TokenselError(
            f"input_ids: rows hold {counts.tolist()} placeholders {IMAGE_TOKEN_INDEX}; "
            "each must hold one, or all of them none"
        )
    return placeholders.int().argmax(1)


def expand_placeholder(values: Tensor, indices: Tensor, count: int) -> Tensor:
    """Per-token values [B, T] -> [B, T + count - 1]: the value at each row's index is repeated `count` times."""
    column = torch.arange(values.shape[1] + count - 1, device=values.device)
    first = indices.unsqueeze(1)
    source = torch.where(column < first + count, column.minimum(first), column - (count - 1))
    return values.gather(1, source)


def picture_values(images: Any, rows: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """pixel_values [B, 3, H, W] from such a tensor or a list of [3, H, W], one picture per row of the prompt.

    Raises TokenselError for anything else.
    """
    if isinstance(images, list | tuple) and len({getattr(image, "shape", None) for image in images}) == 1:
        images = torch.stack(list(images)) if isinstance(images[0], Tensor) else images
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != rows:
        shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise TokenselError(f"images={shape}: must be pixel values [{rows}, 3, H, W], one picture per prompt")
    return images.to(device, dtype)
