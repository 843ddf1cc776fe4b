"""A user's own methods: a class in a file of theirs, or one that an installed package offers by entry point."""

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

from tokensel.errors import TokenselError
from tokensel.methods.base import METHODS, Method

ENTRY_POINT_GROUP = "tokensel.methods"
_FILE_AND_CLASS = re.compile(r"(?P<file>.+\.py)(?::(?P<kind>.*))?")
# What a configuration's node of a method says beside the method's fields.
_NODE_KEYS = ("name", "file")

_modules: dict[Path, ModuleType] = {}
_specs: dict[type[Method], str] = {}


def find_method(name: str) -> type[Method] | None:
    """The class that FILE.py:CLASS or an entry point's name stands for, registered; None if name is neither.

    Runs code of the named file or package only. Raises TokenselError as `load_method` does.
    """
    if _FILE_AND_CLASS.fullmatch(name):
        return load_method(name)
    return _load_entry_point(name)


def load_method(spec: str) -> type[Method]:
    """Imports FILE.py and registers its CLASS under the class's name. spec: "FILE.py:CLASS".

    The path is relative to the current directory, or begins with ~. A file is executed once, and again when its content
    has changed. A class without a `name` of its own gets its class name in snake_case; one with annotations becomes a
    dataclass if it is none.

    Raises TokenselError, one line: the file is missing or fails (where, and with what), it has no such class, the class
    is no subclass of Method with a `select`, or its name is taken.
    """
    named = _FILE_AND_CLASS.fullmatch(spec)
    if named is None or not (named["kind"] or "").isidentifier():
        raise TokenselError(f"method={spec}: must be FILE.py:CLASS")
    path = Path(named["file"]).expanduser().resolve()
    with _registering(spec):
        module = _import_file(path, spec)
        found = getattr(module, named["kind"], None)
        if found is None:
            raise TokenselError(f"method={spec}: no class {named['kind']} there; {_listed(module)}")
        method = _adopt(found, spec)
    _specs[method] = f"{path}:{named['kind']}"
    return method


def method_file(method: type[Method]) -> str | None:
    """Where `load_method` found this class, as an absolute FILE.py:CLASS; None for any other class."""
    return _specs.get(method)


def entry_point_names() -> list[str]:
    """Names that installed packages offer, sorted, without importing any."""
    return sorted({point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP)})


def _load_entry_point(name: str) -> type[Method] | None:
    points = {point.value: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)}
    if not points:
        return None
    if len(points) > 1:
        raise TokenselError(f"method={name}: offered more than once, by {' and '.join(sorted(points))}; uninstall one")
    ((value, point),) = points.items()
    spec = f"{name} ({value})"
    with _registering(spec):
        try:
            found = point.load()
        except (Exception, SystemExit) as error:  # whatever a package's import raises
            raise TokenselError(f"method={spec}: cannot be imported: {_told(error)}") from error
        method = _adopt(found, spec, name)
        if method.name != name:
            raise TokenselError(f"method={spec}: the class calls itself {method.name!r}; it must be {name!r}")
    return method


def _import_file(path: Path, spec: str) -> ModuleType:
    """The file as a module of a name of its own."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenselError(f"method={spec}: {path} cannot be read: {error.strerror}") from error
    name = f"tokensel_user_{hashlib.sha256(str(path).encode() + content).hexdigest()[:16]}"
    if path in _modules and _modules[path].__name__ == name:
        return _modules[path]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look there while the file runs
    try:
        # Not by Python's own loader, which takes a .pyc of the same second and size for the file as it is now.
        source = importlib.util.decode_source(content)
        # So inspect.getsource tells what ran, also after the file was edited.
        linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        del sys.modules[name]
        raise TokenselError(f"method={spec}: {path}{_line(error, path)}: {_told(error)}") from error
    _modules[path] = module
    return module


def _line(error: BaseException, path: Path) -> str:
    """Where in the file: of a syntax error its own line, else the last one that ran."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _told(error: BaseException) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    first = next(iter(message.strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _listed(module: ModuleType) -> str:
    own = [kind.__name__ for kind in vars(module).values() if _is_method(kind) and kind.__module__ == module.__name__]
    return f"choose from {', '.join(sorted(own))}" if own else "it has no subclass of tokensel.Method"


def _is_method(found: object) -> TypeGuard[type[Method]]:
    return isinstance(found, type) and issubclass(found, Method) and found is not Method


def _adopt(found: object, spec: str, name: str | None = None) -> type[Method]:
    """Gives the class what it lacks, checks it and registers it. name: for a class without one of its own."""
    if not _is_method(found):
        raise TokenselError(f"method={spec}: must be a subclass of tokensel.Method")
    if found.select is Method.select and not found.passes_through:
        raise TokenselError(f"method={spec}: has no select(self, context)")
    if "__dataclass_fields__" not in vars(found) and inspect.get_annotations(found):
        try:
            dataclass(found)
        except (TypeError, ValueError) as error:  # names the field
            raise TokenselError(f"method={spec}: cannot be a dataclass: {_told(error)}") from error
    reserved = [option.name for option in fields(found) if option.name in _NODE_KEYS]
    if reserved:
        raise TokenselError(f"method={spec}: {reserved[0]} cannot be an option; for the method's name write name = ...")
    if "name" not in vars(found):
        found.name = name or _snake_case(found.__name__)
    if not (isinstance(found.name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", found.name)):
        raise TokenselError(f"method={spec}: name={found.name!r}: must be letters, digits, - and _")
    METHODS[found.name] = found
    return found


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()


@contextmanager
def _registering(spec: str) -> Iterator[None]:
    """Refuses names that other methods have, whether registered by decorator or here; a failure registers nothing."""
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
    file = getattr(sys.modules.get(method.__module__), "__file__", None)
    return f"{method.__name__} in {file or method.__module__}"
