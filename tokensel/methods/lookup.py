"""Methods by name: registered ones, a user's file, or an installed package."""

from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from tokensel.errors import TokenselError
from tokensel.methods.base import Method
from tokensel.methods.registry import METHODS
from tokensel.methods.user import completed, find_user_method


def find_method(name: str) -> type[Method]:
    """The class of a registered name, of "FILE.py:CLASS", or of an installed package's entry point.

    Raises TokenselError for an unknown name (lists the methods) or a file that cannot be used.
    """
    kind = METHODS.get(name) or find_user_method(name)
    if kind is None:
        raise TokenselError(f"method={name!r} is unknown; choose from {', '.join(sorted(METHODS))}")
    return kind


def make_method(method: str | type[Method] | Method, **options: Any) -> Method:
    """A Method from its name (see `find_method`) or class and its options; an instance is returned as it is.

    Raises TokenselError for an unknown name (lists the methods), an unknown option (lists the method's options), or a
    value of another type than the option's.
    """
    if isinstance(method, Method):
        if options:
            raise TokenselError(
                f"options {sorted(options)} cannot be given beside a {type(method).__name__} instance: set its fields"
            )
        return method
    if not isinstance(method, type | str):
        raise TokenselError(f"method={method!r}: must be a name, FILE.py:CLASS, or a tokensel.Method class or instance")
    kind = completed(method, method.__name__) if isinstance(method, type) else find_method(method)
    known = [field.name for field in fields(kind)]
    for option, value in options.items():
        if option not in known:
            raise TokenselError(
                f"{option}={value!r}: method {kind.name!r} has no such option; it has {', '.join(known) or 'none'}"
            )
    _check_types(kind, options)
    return kind(**options)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The declared types of a method's options."""
    try:
        return get_type_hints(kind)
    except (NameError, TypeError):  # annotations of a user's method that Python cannot resolve
        return {}


def _check_types(kind: type[Method], options: dict[str, Any]) -> None:
    """Checks options that are declared as numbers, text, booleans or None. Other types are the method's own matter."""
    hints = _hints(kind) if options else {}  # type: ignore[arg-type]
    for option, value in options.items():
        hint = hints.get(option)
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if hint is None or not set(types) <= {int, float, str, bool, NoneType}:
            continue
        fits = type(value) in types or (type(value) is int and float in types)
        if not fits:
            names = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
            allowed = " or ".join(names[each] for each in types)
            raise TokenselError(f"{option}={value!r}: must be {allowed} for method {kind.name!r}")
