"""What a command says beside its result: warnings, each once, as lines "note: ..." on standard error."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runners.terminal.logs import LOGGERS
from tokensel.errors import printable


@contextmanager
def notes() -> Iterator[None]:
    """Inside the block, warnings of `warnings` and of this project's loggers are notes.

    Each is said once: a command may read the same files for its table, its page and its cache.
    """
    said: set[str] = set()

    def say(text: str) -> None:
        line = printable(" ".join(text.split()))
        if line not in said:
            said.add(line)
            print(f"note: {line}", file=sys.stderr)

    handler = _Notes(say)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(str(message))
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
