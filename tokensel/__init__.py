"""tokensel: reduce the visual tokens of a vision-language model, without training, and measure the cost."""

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
