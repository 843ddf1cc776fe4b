"""The figures of a command as one line of JSON, for other programs."""

import json
import sys
from collections.abc import Mapping
from typing import Any


def print_record(record: Mapping[str, Any], wanted: bool | None = None) -> None:
    """Prints the record as one line of JSON. wanted: None prints it only where standard output is no terminal, whose
    reader wants the table alone."""
    if not sys.stdout.isatty() if wanted is None else wanted:
        print(json.dumps(record, allow_nan=False), flush=True)
