"""The control downsample: pictures reduced to as many patches as visual tokens are kept.

A patch is what one visual token shows of a picture: 14 x 14 pixels in LLaVA-1.5, which sees 24 x 24 of them. With
kept=64 a picture becomes one of 8 x 8 patches, 112 x 112 pixels, and
- where all pictures have the same number of visual tokens, it is scaled back to its size: as many tokens as ever
  enter, and they show what 64 patches can;
- elsewhere it stays small, and fewer tokens enter. Processors that scale every picture up to their tiles undo that.
"""

import math
from dataclasses import replace

from PIL import Image

from tokensel.data import Question
from tokensel.engine.kept import Kept, count_of
from tokensel.models import LoadedModel


def fitting_grid(kept: int, rows: int, columns: int) -> tuple[int, int]:
    """The largest grid of at most `kept` patches in the shape of rows x columns: (rows, columns), each at least 1.

    For a square, both are the square root of kept, rounded down.
    """
    fewer_rows = max(1, math.isqrt(kept * rows // columns))
    fewer_columns = max(1, min(math.isqrt(kept * columns // rows), kept // fewer_rows))
    return min(fewer_rows, max(1, kept // fewer_columns)), fewer_columns


def same_pictures(loaded: LoadedModel, kept: Kept | None) -> Kept | None:
    """The smallest kept with the same pictures as this one; None where they stay as they are.

    Points that agree in it can share the vision tower's work. kept: None stays None.
    """
    if kept is None or not loaded.family.fixed_size:
        return kept
    side = math.isqrt(loaded.num_image_tokens)
    rows, columns = fitting_grid(count_of(kept, side * side), side, side)
    return None if rows >= side else rows * columns


def downsampled(loaded: LoadedModel, image: Image.Image, kept: Kept) -> Image.Image:
    """The picture, prepared as the protocol says, with no more detail than `kept` patches show.

    image: RGB, any size. kept: a count, or a share of the picture's own visual tokens. Pixels are averaged over areas;
    scaling back is bicubic. A picture that is small enough already stays as it is.
    """
    image = loaded.prepare_image(image)
    family, width, height = loaded.family, image.width, image.height
    patch = family.patch_side(loaded.model.config)
    if family.fixed_size:
        patches = same_pictures(loaded, kept)
        if not isinstance(patches, int):  # None, as same_pictures makes counts of shares
            return image
        # A square of patches, to which processors fit the shorter side.
        small = _scaled(image, math.isqrt(patches) * patch / min(width, height))
        return small if small is image else small.resize((width, height), Image.Resampling.BICUBIC)
    count, grid = loaded.picture_shape(image)
    most = count_of(kept, count)
    if most >= count:
        return image
    if grid is not None and math.prod(grid) == count:
        rows, columns = fitting_grid(most, *grid)
        return image.resize((columns * patch, rows * patch), Image.Resampling.BOX)
    return _scaled(image, patch * math.sqrt(most / (width * height)))


def with_downsampled(loaded: LoadedModel, question: Question, kept: Kept | None) -> Question:
    """The question with its pictures downsampled, each by itself; with kept None as it is.

    Raises BadSampleError for a broken picture.
    """
    if kept is None or not question.pictures:
        return question
    return replace(question, image=[downsampled(loaded, image, kept) for image in question.load_images()])


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    """The picture with both sides times a factor below 1; from 1 on, the picture itself."""
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BOX)
