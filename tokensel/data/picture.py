"""Reading a picture: from a file, from memory, or from a function that makes it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tokensel.errors import BadSampleError, first_line

Picture = Image.Image | str | Path | Callable[[], Image.Image]


def read_picture(picture: Picture, what: str = "picture") -> Image.Image:
    """The picture in RGB, fully decoded.

    what: what errors call it.

    Raises BadSampleError, without a question's id, for a picture that is missing, truncated or not a picture.
    """
    try:
        if isinstance(picture, str | Path):
            if os.path.exists(picture) and not os.path.isfile(picture):
                raise ValueError("is not a file")  # a pipe would be read for ever
            with Image.open(picture) as opened:
                return _decoded(opened)
        return _decoded(picture() if callable(picture) else picture)
    except FileNotFoundError as error:
        raise BadSampleError(f"{what} {error.filename or picture} does not exist") from error
    except Exception as error:  # PIL's decoders raise errors of many classes for damaged files
        source = picture if isinstance(picture, str | Path) else "in memory"
        raise BadSampleError(f"{what} {source} cannot be read ({first_line(error)})") from error


def _decoded(image: Image.Image) -> Image.Image:
    # PIL decodes lazily: without load(), a truncated file would fail later, in the image processor.
    image.load()
    return _in_8_bits(image).convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The picture, with 16-bit grey values and floats from 0 to 1 scaled to 0 .. 255: PIL would make them white or
    black.

    Raises ValueError for other values of more than 8 bits.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, dtype=np.float64)
    least, largest = values.min(), values.max()
    # Older releases of PIL open PNGs of 16 bits in mode I, which is of 32 bits.
    full = 1.0 if image.mode == "F" else 255.0 if image.mode == "I" and image.format != "PNG" else 65535.0
    if not (least >= 0 and largest <= full):
        kind = "floats" if image.mode == "F" else "integers"
        raise ValueError(f"its pixels are {kind} from {least:g} to {largest:g}; convert it to 8 bits")
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))
