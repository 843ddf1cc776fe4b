"""full: no reduction, the upper control."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.methods.base import Method
from tokensel.methods.registry import register_method


@register_method
@dataclass
class Full(Method):
    """Keep every visual token: the unchanged model, bit for bit. `kept` may be omitted.

    Source: none, a control.
    Parameters: none.
    """

    name: ClassVar[str] = "full"
    passes_through: ClassVar[bool] = True
