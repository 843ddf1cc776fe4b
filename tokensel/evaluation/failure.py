"""An exception of a grid point, as it is reported: one line for the table, and the traceback for the log."""

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from tokensel.methods import Method, find_method


@dataclass(frozen=True)
class Failure:
    """described: in one line. trace: its traceback, of several lines; "" if there is none."""

    described: str
    trace: str = ""


def failure_of(error: Exception, method: str | None = None) -> Failure:
    """method: the name of the method at work, whose file may be the user's."""
    return Failure(
        describe(error, None if method is None else find_method(method)), "".join(traceback.format_exception(error))
    )


def describe(error: Exception, method: type[Method] | None = None) -> str:
    """One line: the error's type, the first line of its message, and where in the file of a user's method it arose."""
    lines = str(error).splitlines()
    described = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    ours = method is None or method.__module__.startswith("tokensel.")
    file = None if ours or method is None else sys.modules[method.__module__].__file__
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{described} ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else described
