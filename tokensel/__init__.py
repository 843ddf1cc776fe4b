"""tokensel: reduce the visual tokens of a vision-language model, without training, and measure the cost.

Importing the package loads nothing; the first use of one of its names loads torch, transformers and the library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokensel.auto import Auto
    from tokensel.engine.reduce import reduce_tokens
    from tokensel.engine.stages import Stage, make_stages
    from tokensel.errors import BadSampleError, TokenselError
    from tokensel.methods import (
        METHODS,
        Context,
        Method,
        OrderingMethod,
        ScoringMethod,
        Selection,
        make_method,
        register_method,
    )

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Auto",
    "BadSampleError",
    "Context",
    "Method",
    "OrderingMethod",
    "ScoringMethod",
    "Selection",
    "Stage",
    "TokenselError",
    "make_method",
    "make_stages",
    "reduce_tokens",
    "register_method",
]

_ORIGINS = {
    "Auto": "tokensel.auto",
    "BadSampleError": "tokensel.errors",
    "Stage": "tokensel.engine.stages",
    "TokenselError": "tokensel.errors",
    "make_stages": "tokensel.engine.stages",
    "reduce_tokens": "tokensel.engine.reduce",
}
_PACKAGES = ("data", "engine", "errors", "functional", "methods", "models")

if not TYPE_CHECKING:  # type checkers read the imports above

    def __getattr__(name: str) -> object:
        if name in _PACKAGES:
            return import_module(f"tokensel.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'tokensel' has no attribute {name!r}")
        globals()[name] = getattr(import_module(_ORIGINS.get(name, "tokensel.methods")), name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
