"""Checkpoints in LLaVA-1.5's original layout, renamed to transformers' while they are read."""

from tokensel.models.original.config import is_original_layout
from tokensel.models.original.weights import load_original

__all__ = ["is_original_layout", "load_original"]
