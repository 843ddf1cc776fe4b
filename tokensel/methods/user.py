"""Methods from outside tokensel: a class in a user's file, or an entry point of an installed package."""

import hashlib
import importlib.util
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from tokensel.choices import METHOD_ENTRY_POINTS
from tokensel.errors import TokenselError
from tokensel.methods.base import Method, OrderingMethod, ScoringMethod, snake_case
from tokensel.methods.registry import METHODS

_FILE_AND_CLASS = re.compile(r"(?P<file>.+\.py)(?::(?P<kind>.*))?")
# Keys of a method's configuration node beside the method's fields.
_NODE_KEYS = ("name", "file")

_modules: dict[Path, ModuleType] = {}
_specs: dict[type[Method], str] = {}


def find_user_method(name: str) -> type[Method] | None:
    """The class that "FILE.py:CLASS" or an entry point names, registered; None if `name` is neither.

    Runs only the code of the named file or package. Raises TokenselError as `load_method` does.
    """
    if _FILE_AND_CLASS.fullmatch(name):
        return load_method(name)
    return _load_entry_point(name)


def load_method(spec: str) -> type[Method]:
    """Imports FILE.py and registers its class CLASS. spec: "FILE.py:CLASS".

    The path is absolute, relative to the current directory, or begins with ~. A file is executed once, and again after
    its content has changed. A class that does not define `name` is named by its class name in snake_case. A class with
    annotations is made a dataclass if it is not one.

    Raises TokenselError if the file is missing or raises (with its line and the error), if it has no such class, if the
    class is not a subclass of Method with a `select` or of ScoringMethod with a `score`, or if its name is taken.
    """
    named = _FILE_AND_CLASS.fullmatch(spec)
    if named is None or not (named["kind"] or "").isidentifier():
        raise TokenselError(f"method={spec}: must be FILE.py:CLASS")
    path = Path(named["file"]).expanduser().resolve()
    with _registering(spec):
        module = _import_file(path, spec)
        found = getattr(module, named["kind"], None)
        if found is None:
            raise TokenselError(f"method={spec}: no class {named['kind']} there; {_allowed(module)}")
        method = _adopt(found, spec)
    _specs[method] = f"{path}:{named['kind']}"
    return method


def method_file(method: type[Method]) -> str | None:
    """The absolute FILE.py:CLASS from which `load_method` loaded this class; None for any other class."""
    return _specs.get(method)


def _load_entry_point(name: str) -> type[Method] | None:
    points = {point.value: point for point in metadata.entry_points(group=METHOD_ENTRY_POINTS, name=name)}
    if not points:
        return None
    if len(points) > 1:
        raise TokenselError(f"method={name}: offered more than once, by {' and '.join(sorted(points))}; uninstall one")
    ((value, point),) = points.items()
    spec = f"{name} ({value})"
    with _registering(spec):
        try:
            found = point.load()
        except (Exception, SystemExit) as error:  # an import can raise anything
            raise TokenselError(f"method={spec}: cannot be imported: {_described(error)}") from error
        method = _adopt(found, spec, name)
        if method.name != name:
            raise TokenselError(f"method={spec}: the class calls itself {method.name!r}; it must be {name!r}")
    return method


def _import_file(path: Path, spec: str) -> ModuleType:
    """The file as a module whose name is unique to its path and content."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenselError(f"method={spec}: {path} cannot be read: {error.strerror}") from error
    name = f"tokensel_user_{hashlib.sha256(str(path).encode() + content).hexdigest()[:16]}"
    if path in _modules and _modules[path].__name__ == name:
        return _modules[path]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses need the entry while the file runs
    try:
        # Python's own loader would use a stale .pyc if the file was edited within a second to the same size.
        source = importlib.util.decode_source(content)
        # For inspect.getsource: it must return the code that ran, even after the file was edited.
        linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:  # a user's file can raise anything
        del sys.modules[name]
        raise TokenselError(f"method={spec}: {path}{_line(error, path)}: {_described(error)}") from error
    _modules[path] = module
    return module


def _line(error: BaseException, path: Path) -> str:
    """ ", line N": the line of a syntax error, or the last line of the file in the traceback; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _described(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    first = next(iter(message.strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _allowed(module: ModuleType) -> str:
    """The end of an error message: the classes that may be named."""
    own = [kind.__name__ for kind in vars(module).values() if _is_method(kind) and kind.__module__ == module.__name__]
    return f"choose from {', '.join(sorted(own))}" if own else "it has no subclass of tokensel.Method"


def _is_method(found: object) -> TypeGuard[type[Method]]:
    return (
        isinstance(found, type) and issubclass(found, Method) and found not in (Method, OrderingMethod, ScoringMethod)
    )


def _adopt(found: object, spec: str, name: str | None = None) -> type[Method]:
    """Completes the class, checks it and registers it. name: for a class that does not define one."""
    found = completed(found, spec)
    reserved = [option.name for option in fields(found) if option.name in _NODE_KEYS]
    if reserved:
        raise TokenselError(f"method={spec}: {reserved[0]} cannot be an option; to name the method, write name = ...")
    if "name" not in vars(found):
        found.name = name or snake_case(found.__name__)
    if not (isinstance(found.name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", found.name)):
        raise TokenselError(f"method={spec}: name={found.name!r}: must be letters, digits, - and _")
    METHODS[found.name] = found
    return found


def completed(found: object, spec: str) -> type[Method]:
    """The class, made a dataclass if its author forgot to. Raises TokenselError unless it is a whole method."""
    if not _is_method(found):
        raise TokenselError(f"method={spec}: must be a subclass of tokensel.Method")
    for base, needed in ((ScoringMethod, "score"), (OrderingMethod, "order")):
        if all(getattr(found, each, None) is getattr(base, each) for each in (needed, "select")):
            raise TokenselError(f"method={spec}: has no {needed}(self, context)")
    if found.select is Method.select and not found.passes_through:
        raise TokenselError(f"method={spec}: has no select(self, context)")
    if "__dataclass_fields__" not in vars(found) and inspect.get_annotations(found):
        try:
            dataclass(found)
        except (TypeError, ValueError) as error:  # the message names the field
            raise TokenselError(f"method={spec}: cannot be a dataclass: {_described(error)}") from error
    return found


@contextmanager
def _registering(spec: str) -> Iterator[None]:
    """Undoes all registrations of its block on any error, and raises TokenselError if one replaced another method."""
    before = dict(METHODS)
    try:
        yield
        for name, method in METHODS.items():
            if before.get(name, method) is not method and _origin(before[name]) != _origin(method):
                raise TokenselError(
                    f"method={spec}: the name {name!r} is taken by {_origin(before[name])}; give the class another: "
                    f"name = ..."
                )
    except BaseException:
        METHODS.clear()
        METHODS.update(before)
        raise


def _origin(method: type[Method]) -> str:
    """The class and its file. A class that is loaded again from an edited file has the same origin."""
    file = getattr(sys.modules.get(method.__module__), "__file__", None)
    return f"{method.__name__} in {file or method.__module__}"
