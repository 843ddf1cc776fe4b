"""Where log records of a command go: a file of this start beside its results, and warnings also to the terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

LOGGERS = ("tokensel", "runners", "analysis")


class _LogFile(logging.FileHandler):
    """Creates its folder with the first record: a command that fails at once leaves none.

    On a full disk, which the command itself reports, records that find no room are dropped.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def _open(self):  # type: ignore[no-untyped-def]
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


def new_log(folder: Path) -> Path:
    """A file for this start in the folder's `logs`, named by date and time; never one that exists."""
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    paths = (folder / "logs" / f"{stem}{f'_{number}' if number > 1 else ''}.log" for number in count(1))
    return next(path for path in paths if not path.exists())


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Inside the block, appends log records from level INFO on to this file; shows warnings as "note: ..." lines on
    standard error. Errors are reported by the commands themselves, in one line; the file has their tracebacks."""
    file = _LogFile(path, delay=True, encoding="utf-8")
    file.setLevel(logging.INFO)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    notes = logging.StreamHandler(sys.stderr)
    notes.addFilter(lambda record: record.levelno == logging.WARNING)
    notes.setFormatter(logging.Formatter("note: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(file)
        logger.addHandler(notes)
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(file)
            logger.removeHandler(notes)
            logger.setLevel(level)
            logger.propagate = propagate
        file.close()
