"""lmms-eval, without what it does to the process that imports it.

Its import lets PIL accept truncated pictures, and it logs and prints a lot. Here truncated pictures stay errors, and
standard output stays the caller's.
"""

import importlib
import io
import random
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType

import numpy as np
from PIL import Image, ImageFile

from tokensel.errors import TokenselError

_INSTALL = (
    "pip install --no-deps lmms-eval==0.7.3 && pip install loguru pytz evaluate sacrebleu tenacity accelerate openpyxl"
)


def load_module(name: str) -> ModuleType:
    """A module that imports lmms-eval.

    Raises TokenselError, with the command that installs lmms-eval, if that or a package that it needs is missing.
    """
    try:
        with contained():
            return importlib.import_module(name)
    except ImportError as error:
        missing = getattr(error, "name", None) or error
        raise TokenselError(f"data=lmms: needs lmms-eval (no module {missing}); install it by: {_INSTALL}") from error


@contextmanager
def contained() -> Iterator[None]:
    """Silences lmms-eval's logs and prints in the block, and restores afterwards what it sets in other packages."""
    truncated, most = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _silent():
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = truncated, most


@contextmanager
def repeatable(seed: str) -> Iterator[None]:
    """Draws of Python's and NumPy's common generators in the block depend on `seed` alone, and change none after it.

    Some tasks draw: MMMU's guesses a letter for an answer that names none.
    """
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(zlib.crc32(seed.encode()))
    try:
        yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)


@contextmanager
def _silent() -> Iterator[None]:
    from loguru import logger

    logger.disable("")
    try:
        yield
    finally:
        logger.enable("")
