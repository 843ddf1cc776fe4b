"""Which parts of a task's scoring ask a model on the network, or write files: found in its code, without running it.

Scoring with a judge costs money and differs from day to day, so it runs only on demand.
"""

import dis
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

# Packages whose use means that a model or another service is asked.
_NETWORK = (
    "openai",
    "anthropic",
    "requests",
    "httpx",
    "aiohttp",
    "urllib3",
    "urllib.request",
    "google.generativeai",
    "google.genai",
    "dashscope",
    "vllm",
    "lmms_eval.llm_judge",
)
_WRITING = {"dump", "to_csv", "to_excel", "to_json", "ExcelWriter", "makedirs", "mkdir", "write", "writelines"}
_INSTALLED = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<"})
_MAKES = ("__init__", "__call__", "__enter__")


@dataclass
class Reach:
    """What the code of a function can reach.

    network: the packages for the network. names: of functions and attributes.
    """

    network: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    @property
    def writes(self) -> bool:
        """Whether files seem to be written."""
        return bool(self.names & _WRITING)


def reach(function: Callable[..., Any]) -> Reach:
    """What a function of a task can reach: its own code, and that of what it names, outside installed packages other
    than lmms-eval's.

    It sees names, not values; a function that is looked up under a name made at run time is missed.
    """
    found, seen = Reach(), set()
    waiting: list[tuple[FunctionType, type | None]] = list(_functions(function, _MAKES))
    while waiting:
        each, owner = waiting.pop()
        if (each.__code__, owner) in seen:
            continue
        seen.add((each.__code__, owner))
        modules, names, attributes = _used(each.__code__)
        found.names |= names | attributes
        values = [each.__globals__[name] for name in names if name in each.__globals__]
        values += [cell.cell_contents for cell in each.__closure__ or () if _is_filled(cell)]
        values += [sys.modules[name] for name in modules if name in sys.modules]
        found.network |= {package for name in modules if (package := _package(name))}
        for value in values:
            found.network |= {package for name in _homes(value) if (package := _package(name))}
            waiting += _functions(value, (*attributes, *_MAKES))
        if owner is not None:  # methods that it calls of its own object
            waiting += _functions(owner, tuple(attributes))
    return found


def returns_value(function: Callable[..., Any]) -> bool:
    """Whether a function returns anything; an aggregation that does not only writes a file."""
    code = inspect.unwrap(function).__code__
    last = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RETURN_VALUE" and not (last and last.opname == "LOAD_CONST" and last.argval is None):
            return True
        if instruction.opname == "RETURN_CONST" and instruction.argval is not None:
            return True
        last = instruction
    return False


def _used(code: CodeType) -> tuple[set[str], set[str], set[str]]:
    """The modules that code imports, the global names that it reads, and the attributes."""
    modules, names, attributes = set(), set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            modules.add(str(instruction.argval))
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(str(instruction.argval))
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM", "LOAD_SUPER_ATTR"):
            attributes.add(str(instruction.argval))
        elif isinstance(instruction.argval, CodeType):  # nested functions and comprehensions
            for mine, inner in zip((modules, names, attributes), _used(instruction.argval), strict=True):
                mine |= inner
    return modules, names, attributes


def _functions(value: Any, attributes: tuple[str, ...]) -> Iterator[tuple[FunctionType, type | None]]:
    """The functions of a task's code or lmms-eval's that a value stands for or has under these names."""
    if isinstance(value, partial):
        value = value.func
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, MethodType):
        if isinstance(value.__func__, FunctionType):
            yield from _own(value.__func__, type(value.__self__))
    elif isinstance(value, FunctionType):
        yield from _own(value, None)
    elif isinstance(value, ModuleType):
        for name in attributes:
            inner = value.__dict__.get(name)
            if isinstance(inner, FunctionType | type):
                yield from _functions(inner, _MAKES)
    else:
        kind = value if isinstance(value, type) else type(value)
        for name in attributes:
            inner = getattr(getattr(kind, name, None), "__wrapped__", getattr(kind, name, None))
            if isinstance(inner, FunctionType):
                yield from _own(inner, kind)


def _own(function: FunctionType, owner: type | None) -> Iterator[tuple[FunctionType, type | None]]:
    file = function.__code__.co_filename
    if f"{os.sep}lmms_eval{os.sep}" in file or not file.startswith(_INSTALLED):
        yield function, owner


def _homes(value: Any) -> tuple[str, ...]:
    """The modules that a value belongs to."""
    if isinstance(value, ModuleType):
        return (value.__name__,)
    return (str(getattr(value, "__module__", None) or ""), type(value).__module__)


def _package(name: str) -> str:
    """The package for the network that a module belongs to; "" if it does not."""
    return next((each for each in _NETWORK if name == each or name.startswith(f"{each}.")), "")


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
