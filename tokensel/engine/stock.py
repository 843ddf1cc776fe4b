"""What differs between versions of transformers, found by feature tests. Nothing asks for a version number."""

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn
from transformers import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

CACHE_NAMES = ("past_key_values", "cache")

try:
    from transformers.utils.output_capturing import maybe_install_capturing_hooks
except ImportError:  # output hooks are then no concern of the model's forward

    def maybe_install_capturing_hooks(model: nn.Module) -> None: ...


@lru_cache(maxsize=256)
def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a method's parameters, less self."""
    names = tuple(inspect.signature(function).parameters)
    return names[1:] if names[:1] == ("self",) else names


def by_name(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of an unbound method, all of them by name."""
    return dict(zip(parameter_names(function), args, strict=False)) | dict(kwargs)


def cache_argument(function: Callable[..., Any]) -> str:
    """What an unbound forward calls its KV cache."""
    return next((name for name in CACHE_NAMES if name in parameter_names(function)), CACHE_NAMES[0])


# What decoder layers call it: one name for all families, known before layers are compiled.
LAYER_CACHE = cache_argument(LlamaDecoderLayer.forward)


def find_cache(given: Mapping[str, Any]) -> Cache | None:
    """The KV cache among a forward's arguments or in its output."""
    return next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)
