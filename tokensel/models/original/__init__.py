"""Reads LLaVA-1.5 checkpoints in their authors' layout into transformers' LLaVA.

Imported by models.loading and models.weightless only.
"""

from tokensel.models.original.config import is_original_layout
from tokensel.models.original.weights import load_original, original_processor

__all__ = ["is_original_layout", "load_original", "original_processor"]
