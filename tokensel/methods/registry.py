"""The registered methods by name."""

from typing import TypeVar

from tokensel.methods.base import Method

METHODS: dict[str, type[Method]] = {}

MethodClass = TypeVar("MethodClass", bound=type[Method])


def register_method(method: MethodClass) -> MethodClass:
    """Class decorator: registers the method under its `name`."""
    METHODS[method.name] = method
    return method
