"""The original research code's interface on a stock transformers model, and tokensel as a model of lmms-eval.

    from tokensel.compat import IMAGE_TOKEN_INDEX, load_pretrained_model, process_images, tokenizer_image_token

May import evaluation and everything below it. Imported by runners.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokensel.compat.inputs import IMAGE_TOKEN_INDEX, process_images, tokenizer_image_token
    from tokensel.compat.model import ClassicModel, load_pretrained_model

__all__ = [
    "IMAGE_TOKEN_INDEX",
    "ClassicModel",
    "load_pretrained_model",
    "process_images",
    "tokenizer_image_token",
]

if not TYPE_CHECKING:  # so that the flags can be read without torch

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'tokensel.compat' has no attribute {name!r}")
        origin = "model" if name in ("ClassicModel", "load_pretrained_model") else "inputs"
        return getattr(import_module(f"tokensel.compat.{origin}"), name)
