"""Reads the KEY=VALUE arguments of all commands but the sweep, and writes output files atomically."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tokensel.errors import TokenselError, meant

# The largest integer that everything downstream can hold.
MOST = 2**31 - 1


def read_arguments(
    argv: Sequence[str], keys: Collection[str], prefixes: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The arguments without a "=" in order, and the others by key. A file or folder may have a "=" in its name.

    keys: those allowed. prefixes: every key that begins with one of these is allowed too, for example "method.".

    Raises TokenselError for any other key, and for one given twice.
    """
    plain, given = [], {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals or (key not in keys and os.path.exists(os.path.expanduser(argument))):
            plain.append(argument)
            continue
        if key not in keys and not key.startswith(tuple(prefixes)):
            allowed = ", ".join([*keys, *(f"{prefix}OPTION" for prefix in prefixes)])
            raise TokenselError(f"{key}: unknown key; keys are {allowed}{meant(key, keys)}")
        if key in given:
            raise TokenselError(f"{key}: given twice; give it one value")
        given[key] = value
    return plain, given


def without_dashes(argv: Sequence[str]) -> list[str]:
    """The arguments with "--key value" and "--key=value" written as "key=value".

    Raises TokenselError for a key at the end, without a value.
    """
    rewritten: list[str] = []
    left = list(argv)
    while left:
        argument = left.pop(0)
        key = argument.removeprefix("--")
        if key == argument or "=" in key:
            rewritten.append(key)
        elif left:
            rewritten.append(f"{key}={left.pop(0)}")
        else:
            raise TokenselError(f"{argument}: has no value; write {key}=VALUE")
    return rewritten


def read_integer(given: Mapping[str, str], key: str, default: int, least: int = 0) -> int:
    """The integer at this key. Raises TokenselError for a value that is not an integer from `least` to `MOST`."""
    text = given.get(key, str(default))
    digits = text.removeprefix("-")
    # Before it is converted: Python refuses very many digits with an error of its own.
    readable = digits.isascii() and digits.isdigit() and len(digits.lstrip("0")) <= len(str(MOST))
    if not readable or not least <= int(text) <= MOST:
        raise TokenselError(f"{key}={_shortened(text)}: must be an integer from {least} to {MOST}")
    return int(text)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def read_flag(given: Mapping[str, str], key: str, default: bool | None = None) -> bool | None:
    """The truth value at this key. Raises TokenselError for anything but true and false."""
    text = given.get(key)
    if text not in (None, "true", "false"):
        raise TokenselError(f"{key}={text}: choose from true, false")
    return default if text is None else text == "true"


def read_list(text: str) -> list[str]:
    """The items of "a,b" or "[a,b]", without blanks around them."""
    inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    return [item.strip() for item in inner.split(",") if item.strip()]


def read_items(given: Mapping[str, str], key: str, default: str) -> list[str]:
    """`read_list` of the value at this key. Raises TokenselError for a list without an item."""
    items = read_list(given.get(key, default))
    if not items:
        raise TokenselError(f"{key}={given[key]}: give at least one, such as {key}={default}")
    return items


def read_value(text: str) -> Any:
    """A number, true, false, null or text, as in the sweep's arguments."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a number of thousands of digits, or no date
        return text


def write_whole(path: Path, data: bytes, key: str = "output") -> None:
    """Writes the file and the folders above it; what was there before stays until the new one is complete.

    Raises TokenselError if the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists() and not path.is_file():
            raise TokenselError(f"{key}={path}: must be a file")  # a device such as /dev/null would be replaced
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise TokenselError(f"{key}={path}: cannot be written ({error.strerror})") from error
