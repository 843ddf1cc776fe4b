"""The figures of a command as one line of JSON, for other programs. All commands take json=true and json=false."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from runners.terminal.arguments import read_arguments, read_flag


def take_json(arguments: Sequence[str]) -> tuple[list[str], bool | None]:
    """The arguments without json=..., and whether JSON is wanted; None: only where standard output is no terminal.

    Raises TokenselError for a value other than true and false, and for two of them.
    """
    ours = [argument for argument in arguments if argument.startswith("json=")]
    _, given = read_arguments(ours, ("json",))
    return [argument for argument in arguments if argument not in ours], read_flag(given, "json")


def print_record(record: Mapping[str, Any], wanted: bool | None) -> None:
    """Prints the record as one line of JSON, if that is wanted, see `take_json`."""
    if not sys.stdout.isatty() if wanted is None else wanted:
        print(json.dumps(record), flush=True)
