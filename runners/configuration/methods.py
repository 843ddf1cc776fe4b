"""Lets `method=` choose methods that have no file in conf/method, such as the user's own.

The library, and torch with it, is loaded only for those: a misspelled name is refused without.
"""

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf.errors import UnsupportedValueType

from runners.terminal.program import importing
from tokensel.choices import METHOD_ENTRY_POINTS
from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from tokensel.methods import Method

_ITEM = re.compile(r"""\s*(?:"[^"]*"|'[^']*'|[^,]+)""")


def offer_methods(arguments: Sequence[str], conf: Path) -> list[str]:
    """Loads each FILE.py:CLASS among the arguments, and returns the arguments with the methods' names in their place.

    Every method that this process has registered, and every one that an installed package offers, becomes a choice of
    the group `method`; the fields of its class are the options. A package is imported only if an argument names its
    method. conf: the folder with sweep.yaml and the groups.

    Raises TokenselError for a file or an entry point that holds no method.
    """
    offered = {point.name for point in metadata.entry_points(group=METHOD_ENTRY_POINTS)}
    named = [_by_name(argument, offered) for argument in arguments]
    nodes = {name: {"name": name} for name in sorted(offered)}
    if "tokensel.methods" in sys.modules:
        from tokensel.methods import METHODS

        nodes |= {name: _node(name, method) for name, method in METHODS.items()}
    for name, node in nodes.items():
        if (conf / "method" / f"{name}.yaml").exists():
            continue
        try:
            ConfigStore.instance().store(group="method", name=name, node=node)
        except UnsupportedValueType as error:
            raise TokenselError(
                f"method={name}: default of {error.full_key}: must be a number, a string, true, false, null or a list"
            ) from error
    return named


def _by_name(argument: str, offered: Collection[str]) -> str:
    key, _, value = argument.partition("=")
    if key not in ("method", "controls"):
        return argument
    listed = re.fullmatch(r"\[(.*)\]", value)
    named = _ITEM.sub(lambda item: _name(item[0], offered), listed[1] if listed else value)
    return f"{key}=[{named}]" if listed else f"{key}={named}"


def _name(item: str, offered: Collection[str]) -> str:
    text = item.strip()
    if text[:1] in "\"'" and text[-1:] == text[:1]:
        text = text[1:-1]
    if text not in offered and ".py" not in text:
        return item
    with importing():
        from tokensel.methods import METHODS
        from tokensel.methods.user import find_user_method
    method = None if text in METHODS else find_user_method(text)
    return item if method is None else method.name


def _node(name: str, method: "type[Method]") -> dict[str, Any]:
    from tokensel.methods.user import method_file

    node: dict[str, Any] = {"name": name}
    if file := method_file(method):
        node["file"] = file
    for option in fields(method):
        if option.name == "seed" or not option.init:
            continue
        if option.default is not MISSING:
            node[option.name] = option.default
        elif option.default_factory is not MISSING:
            node[option.name] = option.default_factory()
        else:
            node[option.name] = "???"
    return node
