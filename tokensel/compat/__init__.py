"""The original research code's interface on a stock transformers model.

    from tokensel.compat import IMAGE_TOKEN_INDEX, load_pretrained_model, process_images, tokenizer_image_token

May import engine and everything below it. Imported by runners.
"""

from tokensel.compat.inputs import IMAGE_TOKEN_INDEX, process_images, tokenizer_image_token
from tokensel.compat.model import ClassicModel, load_pretrained_model

__all__ = [
    "IMAGE_TOKEN_INDEX",
    "ClassicModel",
    "load_pretrained_model",
    "process_images",
    "tokenizer_image_token",
]
