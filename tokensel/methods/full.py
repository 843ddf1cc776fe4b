"""full: no reduction, the upper control."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.methods.base import Method
from tokensel.methods.registry import register_method


@register_method
@dataclass
class Full(Method):
    """Keep every visual token: the model as it is, bit for bit. `kept` may be left out."""

    name: ClassVar[str] = "full"
    passes_through: ClassVar[bool] = True
