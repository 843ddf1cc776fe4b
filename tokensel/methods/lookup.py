"""Methods by name: registered ones, a user's file, or an installed package."""

from dataclasses import fields
from typing import Any

from tokensel.errors import TokenselError
from tokensel.methods.base import Method
from tokensel.methods.registry import METHODS
from tokensel.methods.user import find_user_method


def find_method(name: str) -> type[Method]:
    """The class of a registered name, of "FILE.py:CLASS", or of an installed package's entry point.

    Raises TokenselError for an unknown name (lists the methods) or a file that cannot be used.
    """
    kind = METHODS.get(name) or find_user_method(name)
    if kind is None:
        raise TokenselError(f"method={name!r} is unknown; choose from {', '.join(sorted(METHODS))}")
    return kind


def make_method(method: str | Method, **options: Any) -> Method:
    """A Method from its name (see `find_method`) and its options; an instance is returned as it is.

    Raises TokenselError for an unknown name (lists the methods) or an unknown option (lists the method's options).
    """
    if isinstance(method, Method):
        if options:
            raise TokenselError(
                f"options {sorted(options)} cannot be given beside a {type(method).__name__} instance: set its fields"
            )
        return method
    kind = find_method(method)
    known = [field.name for field in fields(kind)]
    for option, value in options.items():
        if option not in known:
            raise TokenselError(
                f"{option}={value!r}: method {method!r} has no such option; it has {', '.join(known) or 'none'}"
            )
    return kind(**options)
